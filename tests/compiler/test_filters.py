"""An event that a model filters out is still a version of itself; one dropped before versions are chosen is none."""

from __future__ import annotations

from datetime import timedelta

from feature_server.client.features import FeatureClient
from feature_server.ingest.transaction import Ingestor
from feature_server.settings import load_settings
from feature_server.times import to_us
from tests.support.stream_views import NOW, payment, put_online, stream_view

SQL = """
select customer_id, occurred_at as event_timestamp, ingested_at as created_timestamp,
    count(*) over (
        partition by customer_id order by occurred_at range between interval 1 hour preceding and current row
    ) as payments_1h
from (
    select * from (select * from events where kind <> 'test') as real
    where merchant is not null
    qualify row_number() over (partition by transaction_id order by ingested_at desc) = 1
) as latest
where amount_eur > 0
"""


def test_an_event_dropped_before_versions_are_chosen_is_accepted_and_leaves_the_earlier_version(valkey: str) -> None:
    put_online(valkey, stream_view(SQL, {"payments_1h": "int64"}))
    with (
        FeatureClient(valkey, settings=load_settings({})) as client,
        Ingestor(valkey, lambda: to_us(NOW), expire=False) as ingestor,
    ):
        client._reader.now_us = lambda: to_us(NOW)

        def counted(*events: dict[str, object]) -> int:
            pushed = ingestor.push("payments.transactions", events)
            assert (pushed.accepted, pushed.rejected) == (len(events), [])
            return int(client.get(features=["customer__payments:payments_1h"], customer_id=42)["payments_1h"])

        later = (NOW + timedelta(seconds=1)).isoformat()
        assert counted(payment(1), payment(2), payment(3)) == 3
        assert counted(payment(1, kind="test", ingested_at=later), payment(4, merchant=None)) == 3
        assert counted(payment(2, amount_eur="0.00", ingested_at=later)) == 2
