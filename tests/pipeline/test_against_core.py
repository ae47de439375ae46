"""The pipeline, HTTP in and runs out, fires what the core alone fires."""

from tests.proofs import against_core


def test_the_pipeline_makes_the_runs_that_the_core_fires(database_url: str) -> None:
    assert against_core.prove(database_url, examples=60, seed=1) > 20
