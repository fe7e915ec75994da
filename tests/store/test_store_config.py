"""What the store reads from the environment."""

import pytest

from distillery.errors import InvalidRequest
from store.config import LeaseConfig, StoreConfig


def test_addresses_come_from_the_environment() -> None:
    given = {"DISTILLERY_DATABASE_URL": "sqlite:///a.db", "DISTILLERY_ARTIFACTS": "files"}
    assert StoreConfig.from_environment(given) == StoreConfig("sqlite:///a.db", "files", None)
    with_broker = given | {"DISTILLERY_REDIS_URL": "redis://here"}
    assert StoreConfig.from_environment(with_broker).redis_url == "redis://here"


@pytest.mark.parametrize("missing", ["DISTILLERY_DATABASE_URL", "DISTILLERY_ARTIFACTS"])
def test_a_missing_address_is_named(missing: str) -> None:
    given = {"DISTILLERY_DATABASE_URL": "sqlite:///a.db", "DISTILLERY_ARTIFACTS": "files"} | {missing: " "}
    with pytest.raises(InvalidRequest, match=f"{missing} is not set"):
        StoreConfig.from_environment(given)


def test_leases_have_defaults_and_come_from_the_environment() -> None:
    assert LeaseConfig.from_environment({}) == LeaseConfig()
    given = {
        "DISTILLERY_LEASE_SECONDS": "1.5",
        "DISTILLERY_HEARTBEAT_SECONDS": "0.3",
        "DISTILLERY_REAPER_SECONDS": "0.5",
        "DISTILLERY_SAVE_BUDGET_SECONDS": "5",
        "DISTILLERY_BACKOFF_SECONDS": "0, 0.1,1",
    }
    assert LeaseConfig.from_environment(given) == LeaseConfig(1.5, 0.3, 0.5, 5, 3, (0, 0.1, 1))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"DISTILLERY_LEASE_SECONDS": "a minute"}, "DISTILLERY_LEASE_SECONDS is 'a minute'"),
        ({"DISTILLERY_LEASE_SECONDS": "0"}, "above 0"),
        ({"DISTILLERY_LEASE_SECONDS": "nan"}, "above 0"),
        ({"DISTILLERY_REAPER_SECONDS": "inf"}, "above 0"),
        ({"DISTILLERY_LEASE_SECONDS": "10", "DISTILLERY_HEARTBEAT_SECONDS": "10"}, "cannot keep a lease"),
        ({"DISTILLERY_BACKOFF_SECONDS": "1,,2"}, "DISTILLERY_BACKOFF_SECONDS is"),
        ({"DISTILLERY_BACKOFF_SECONDS": "-1"}, "0 s or more"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, str], complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        LeaseConfig.from_environment(given)
