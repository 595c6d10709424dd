"""Django: a middleware says who the user is before the request is handled. It belongs behind AuthenticationMiddleware."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import django
from django.conf import settings
from django.db import connection
from django.db import transaction
from psycopg.conninfo import conninfo_to_dict

from users import REQUESTS
from users import URL
from users import check


def identity_middleware(get_response):
    def middleware(request):
        user = str(request.user.id) if request.user.is_authenticated else ""
        with connection.cursor() as cursor:
            cursor.execute("select set_config('app.current_user_id', %s, false)", [user])
        return get_response(request)

    return middleware


given = conninfo_to_dict(URL)
database = {
    "ENGINE": "django.db.backends.postgresql",
    **{name.upper(): given[name] for name in ("host", "port", "user", "password")},
    "NAME": given["dbname"],
    "CONN_MAX_AGE": None,
    "DISABLE_SERVER_SIDE_CURSORS": True,
}
settings.configure(DATABASES={"default": database})
django.setup()


def view(request) -> list[str]:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("select plan from billing.subscriptions")
        return [plan for (plan,) in cursor]


def request(user: str) -> tuple[str, list[str]]:
    asking = SimpleNamespace(user=SimpleNamespace(id=user, is_authenticated=True))
    return user, identity_middleware(view)(asking)


with ThreadPoolExecutor(8) as threads:
    check(list(threads.map(request, REQUESTS)))
