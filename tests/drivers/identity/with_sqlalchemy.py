"""SQLAlchemy: a session knows its user, and says so at the beginning of each of its transactions."""

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy import make_url
from sqlalchemy import text
from sqlalchemy.orm import Session

from users import REQUESTS
from users import URL
from users import check

engine = create_engine(make_url(URL).set(drivername="postgresql+psycopg"), pool_size=8)


@event.listens_for(Session, "after_begin")
def say_who(session, transaction, connection) -> None:
    # true: until the end of this transaction.
    statement = text("select set_config('app.current_user_id', :user, true)")
    connection.execute(statement, {"user": session.info["user"]})


def request(user: str) -> tuple[str, list[str]]:
    with Session(engine, info={"user": user}) as session:
        first = list(session.scalars(text("select plan from billing.subscriptions")))
        session.rollback()
        assert first == list(session.scalars(text("select plan from billing.subscriptions")))
        return user, first


with ThreadPoolExecutor(8) as threads:
    check(list(threads.map(request, REQUESTS)))
