"""Several questions at a time: the same tables in the same order, whatever the number."""

import asked
import pytest

from interventions import load_model
from interventions.studies.loop import RunOptions
from interventions.tracing.study import trace_study


def test_concurrency_changes_nothing_but_the_time(trusted, here, tmp_path):
    chosen = [item for part in ("known", "movies") for item in asked.items(4, part)]
    local = trace_study(here, chosen, run=RunOptions(results_dir=tmp_path / "here"))
    for n in (1, 4):
        model = load_model("mini", remote=True, concurrency=n)
        study = trace_study(model, chosen, run=RunOptions(results_dir=tmp_path / str(n)))
        assert study.questions["reason"].tolist() == local.questions["reason"].tolist()
        assert study.questions["id"].tolist() == [item.id for item in chosen]
        assert study.sites["effect"].max() > 0.3
        for name in ("sites", "questions"):
            ours, theirs = getattr(study, name), getattr(local, name)
            assert ours.drop(columns=ours.select_dtypes("float").columns).equals(
                theirs.drop(columns=theirs.select_dtypes("float").columns)
            )
            for column in ours.select_dtypes("float"):
                assert ours[column].to_numpy() == pytest.approx(theirs[column].to_numpy(), abs=1e-5, nan_ok=True)
