"""SQLAlchemy 2 and the Django ORM: what an application does, over psycopg 3, psycopg2 and asyncpg."""

import asyncio
import datetime
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import Session
from sqlalchemy.orm import mapped_column
from sqlalchemy.orm import relationship
from sqlalchemy.orm import selectinload

from cases import DATABASE_URL
from cases import SCHEMA
from cases import all_at_once
from cases import case
from cases import fails_with
from cases import marker
from cases import run_all
from cases import same

SYNC_DRIVERS = ("psycopg", "psycopg2")


class Base(DeclarativeBase):
    metadata = sa.MetaData(schema=SCHEMA)


class Author(Base):
    __tablename__ = "author"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    name: Mapped[str] = mapped_column(unique=True)
    born: Mapped[datetime.date | None]
    notes: Mapped[dict] = mapped_column(postgresql.JSONB, default=dict)
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "book"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    tags: Mapped[list[str]] = mapped_column(postgresql.ARRAY(sa.Text), default=list)
    author_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey(Author.id))
    author: Mapped[Author] = relationship(back_populates="books")


def url(driver: str) -> sa.URL:
    return sa.make_url(DATABASE_URL).set(drivername=f"postgresql+{driver}")


@contextmanager
def engines(**options) -> Iterator[Iterator[sa.Engine]]:
    """Yields one engine for each synchronous driver, with tables in place."""
    made = [sa.create_engine(url(driver), **options) for driver in SYNC_DRIVERS]
    try:
        Base.metadata.create_all(made[0])
        yield made
    finally:
        for engine in made:
            engine.dispose()


def author(name: str, books: int = 3) -> Author:
    return Author(
        name=name,
        born=datetime.date(1903, 6, 25),
        notes={"ключ": ["🐘", None]},
        books=[Book(title=f"{name} {number}", tags=["a", 'b"c']) for number in range(books)],
    )


@case("objects are written, read with their relations, changed and deleted")
def _():
    with engines() as made:
        for engine in made:
            name = marker()
            with Session(engine) as session, session.begin():
                session.add(author(name, books=200))
            with Session(engine) as session, session.begin():
                found = session.scalars(sa.select(Author).where(Author.name == name).options(selectinload(Author.books))).one()
                same((len(found.books), found.notes, found.born.year), (200, {"ключ": ["🐘", None]}, 1903))
                found.name = f"{name} changed"
                del found.books[:150]
            with Session(engine) as session, session.begin():
                found = session.scalars(sa.select(Author).where(Author.name == f"{name} changed")).one()
                same(len(found.books), 50)
                session.delete(found)
            with Session(engine) as session:
                same(session.scalar(sa.select(sa.func.count()).select_from(Author).where(Author.name.contains(name))), 0)


@case("a nested transaction that fails leaves the outer one")
def _():
    with engines() as made:
        for engine in made:
            name = marker()
            with Session(engine) as session, session.begin():
                session.add(author(name))
                session.flush()
                with fails_with("23505"), session.begin_nested():
                    session.add(author(name))
                    session.flush()
                session.add(author(f"{name} too"))
            with Session(engine) as session:
                same(session.scalar(sa.select(sa.func.count()).select_from(Author).where(Author.name.startswith(name))), 2)


@case("bulk inserts return their rows in order, and an upsert takes the place of what is there")
def _():
    with engines() as made:
        for engine in made:
            name = marker()
            with Session(engine) as session, session.begin():
                rows = [{"name": f"{name} {number}"} for number in range(3000)]
                found = session.scalars(sa.insert(Author).returning(Author.name, sort_by_parameter_order=True), rows).all()
                same(found, [row["name"] for row in rows])
                upsert = postgresql.insert(Author).values(id=uuid.uuid4(), name=rows[0]["name"], notes={"new": True})
                session.execute(upsert.on_conflict_do_update(index_elements=["name"], set_={"notes": upsert.excluded.notes}))
                same(session.scalar(sa.select(Author.notes).where(Author.name == rows[0]["name"])), {"new": True})
                session.rollback()


@case("a large result streams by server-side cursor")
def _():
    with engines() as made:
        for engine in made:
            with engine.connect().execution_options(yield_per=10_000) as connection:
                rows = connection.execute(sa.text("select generate_series(1, 200000)"))
                same(sum(row[0] for row in rows), 20_000_100_000)


@case("the engine's own pool lends connections to many threads, each with its own rows")
def _():
    with engines(pool_size=10, max_overflow=10, pool_pre_ping=True) as made:
        for engine in made:

            def client(number: int, engine=engine) -> None:
                own = f"{number} {marker()}"
                for _ in range(8):
                    with engine.begin() as connection:
                        connection.execute(sa.text("select set_config('drivers.own', :own, true)"), {"own": own})
                        same(connection.scalar(sa.text("select current_setting('drivers.own')")), own)
                        same(connection.scalar(sa.select(sa.literal(own))), own)

            all_at_once(client, 30)


@case("an identity that is set at checkout is the one that queries see")
def _():
    with engines(pool_size=15, max_overflow=0) as made:
        for engine in made:

            def request(number: int, engine=engine) -> None:
                user = str(uuid.UUID(int=number + 1))
                for _ in range(5):
                    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                        connection.execute(sa.text("select set_config('app.current_user_id', :user, false)"), {"user": user})
                        same(connection.scalar(sa.text("select current_setting('app.current_user_id')")), user)
                    with engine.begin() as connection:
                        connection.execute(sa.text(f"set local app.current_user_id = '{user}'"))
                        same(connection.scalar(sa.text("select current_setting('app.current_user_id')")), user)

            all_at_once(request, 15)


@case("isolation levels are a connection's own, and autocommit runs VACUUM")
def _():
    with engines() as made:
        for engine in made:
            with engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
                same(connection.scalar(sa.text("show transaction_isolation")), "serializable")
            with engine.connect() as connection:
                same(connection.scalar(sa.text("show transaction_isolation")), "read committed")
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(sa.text(f"vacuum {SCHEMA}.author"))


@case("reflection finds the tables, keys and indexes")
def _():
    with engines() as made:
        for engine in made:
            found = sa.MetaData()
            found.reflect(engine, schema=SCHEMA)
            book = found.tables[f"{SCHEMA}.book"]
            same(sorted(book.columns.keys()), ["author_id", "id", "tags", "title"])
            same(next(iter(book.foreign_keys)).column.table.name, "author")


@case("a statement whose table changed is prepared again")
def _():
    with engines() as made:
        for engine in made:
            name = f"{SCHEMA}.{marker()}"
            with engine.begin() as connection:
                connection.execute(sa.text(f"create table {name} (n int)"))
            for columns in (1, 2, 3):
                for _ in range(8):
                    with engine.begin() as connection:
                        same(len(connection.execute(sa.text(f"select * from {name} where :yes"), {"yes": True}).keys()), columns)
                with engine.begin() as connection:
                    connection.execute(sa.text(f"alter table {name} add column {marker()} int"))
                # The psycopg dialect prepares after five uses and has no remedy of its own without a pooler.
                engine.dispose()


@case("asyncpg under SQLAlchemy serves many tasks")
async def _():
    engine = create_async_engine(url("asyncpg"), pool_size=15, max_overflow=0)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

        async def client(number: int) -> None:
            name = f"{number} {marker()}"
            for _ in range(4):
                async with AsyncSession(engine) as session, session.begin():
                    session.add(author(name))
                async with AsyncSession(engine) as session, session.begin():
                    chosen = sa.select(Author).where(Author.name == name).options(selectinload(Author.books))
                    found = (await session.scalars(chosen)).one()
                    same(len(found.books), 3)
                    await session.delete(found)

        await asyncio.gather(*(client(number) for number in range(30)))
        async with engine.connect() as connection:
            rows = await connection.stream(sa.text("select generate_series(1, 100000)"))
            same(sum([row[0] async for row in rows]), 5_000_050_000)
        with fails_with("22012"):
            async with engine.begin() as connection:
                await connection.execute(sa.text("select 1 / 0"))
    finally:
        await engine.dispose()


@case("Django's ORM and migrations work, in one schema by search_path")
def _():
    import django
    from django.conf import settings

    target = sa.make_url(DATABASE_URL)
    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": target.database,
                "USER": target.username,
                "PASSWORD": target.password,
                "HOST": target.host,
                "PORT": target.port,
                "OPTIONS": {"options": f"-c search_path={SCHEMA}", **target.query},
            }
        },
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
    )
    django.setup()
    from django.contrib.auth.models import Group
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db import IntegrityError
    from django.db import connection
    from django.db import transaction

    call_command("migrate", verbosity=0)
    with transaction.atomic():
        group = Group.objects.create(name="readers")
        for number in range(20):
            User.objects.create(username=f"user {number}").groups.add(group)
    try:
        with transaction.atomic():
            User.objects.create(username="never kept")
            User.objects.create(username="user 1")
        raise AssertionError("should have violated a constraint")
    except IntegrityError:
        pass
    same(User.objects.filter(groups__name="readers").count(), 20)
    same(User.objects.filter(username="never kept").exists(), False)
    same(len(list(User.objects.order_by("id").iterator(chunk_size=5))), 20)
    with transaction.atomic():
        same(User.objects.select_for_update().get(username="user 3").username, "user 3")
    call_command("migrate", "auth", "zero", verbosity=0)
    connection.close()


run_all()
