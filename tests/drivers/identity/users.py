"""The two users of docker/postgres/init.sql, what each may see, and a crowd of requests that come from both at once."""

import os
import sys

ADA = "11111111-1111-1111-1111-111111111111"
BOB = "22222222-2222-2222-2222-222222222222"
PLANS = {ADA: ["enterprise", "team"], BOB: ["free"]}

URL = os.environ.get("DATABASE_URL") or sys.exit("DATABASE_URL is not set: saas_user's, through pgusher")

# Whose request each is: neighbours differ, and every server of a small pool serves both.
REQUESTS = [ADA, BOB] * 20


def check(plans_of_each: list[tuple[str, list[str]]]) -> None:
    """Fails unless every request saw its own user's plans and nothing else."""
    assert len(plans_of_each) == len(REQUESTS), f"{len(plans_of_each)} answers to {len(REQUESTS)} requests"
    for user, plans in plans_of_each:
        assert sorted(plans) == PLANS[user], f"{user} saw {plans}"
    print(f"ok {len(plans_of_each)} requests of two users each saw their own rows")
