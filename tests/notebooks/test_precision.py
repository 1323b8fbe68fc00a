"""The notebook about half precision run through papermill, on a tiny saved model and test bed."""

from notebook_runs import check, execute, parameters, shown


def test_the_report_compares_every_mode_with_separate_runs_and_float32(saved_models, tmp_path):
    results = tmp_path / "results"
    given = parameters(saved_models, results, parts="known,movies", limit=1, min_p_clean=0.0)
    path = execute("precision_modes", tmp_path, given)
    says = "which the paper does not make"
    record = check(path, results, "precision", {"differences"}, tables=3, says=says)
    rows = record["table"]
    methods = {(row["dtype"], row["method"]) for row in rows}
    assert methods == {(dtype, method) for dtype in ("bfloat16", "float16") for method in ("plain", "rows", "packed")}
    assert {row["dataset"] for row in rows} == {"known", "movies"}
    assert record["environment"]["dtype"] == "float32"
    assert max(row["to_separate"] for row in rows if row["method"] == "rows") < 1e-6
    assert max(row["to_separate"] for row in rows if row["method"] == "packed") > 1e-4
    assert min(row["to_float32"] for row in rows if row["dtype"] == "bfloat16") > 1e-4
    titles = [claim["claim"] for claim in record["claims"]]
    assert len(titles) == 10 and "float16: the exact mode equals separate runs" in titles
    assert record["numbers"]["bfloat16/fast mode/to_separate"]["n"] == len(rows) / 6
    window, text = shown(path, "text/markdown")
    assert window == "Window: 3 of 5 layers."
    assert "This was run on cpu" in text and "In bfloat16 the exact mode" in text and "In float16 the exact" in text
