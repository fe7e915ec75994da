"""When messages are tried again, and where they may go, as the environment says."""

from ipaddress import ip_network

import pytest

from distillery.errors import InvalidRequest
from store.config import WebhookConfig


def test_by_default_there_are_ten_tries_over_three_days_and_no_private_networks() -> None:
    config = WebhookConfig.from_environment({})
    assert config == WebhookConfig()
    assert len(config.schedule_seconds) + 1 == 10
    assert sum(config.schedule_seconds) == 75 * 3600 + 35 * 60 + 5
    assert (config.try_seconds, config.networks) == (10.0, ())


def test_the_environment_sets_all_of_it() -> None:
    config = WebhookConfig.from_environment(
        {
            "DISTILLERY_WEBHOOK_SCHEDULE_SECONDS": "1,2.5",
            "DISTILLERY_WEBHOOK_TRY_SECONDS": "3",
            "DISTILLERY_WEBHOOK_NETWORKS": " 10.0.0.0/8 , fd00::/8,",
        }
    )
    networks = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert config == WebhookConfig(schedule_seconds=(1.0, 2.5), try_seconds=3.0, networks=networks)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SCHEDULE_SECONDS", "soon"),
        ("SCHEDULE_SECONDS", "5,-1"),
        ("SCHEDULE_SECONDS", "nan"),
        ("TRY_SECONDS", "0"),
        ("TRY_SECONDS", "60"),
        ("NETWORKS", "10.0.0.1/8"),
        ("NETWORKS", "everywhere"),
    ],
)
def test_what_could_not_work_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest):
        WebhookConfig.from_environment({f"DISTILLERY_WEBHOOK_{name}": value})
