import json
from pathlib import Path

import pytest
from detectron2.config import instantiate

from lors import model_zoo
from lors.complexity import parameters


def test_table_1_comes_out_of_the_stacks(run_tool):
    code, said = run_tool("paper_tables", "--table", 1, "--json")
    assert code == 0
    rows = json.loads(said)["table1"]
    assert [row["paper"]["rank"] for row in rows] == [4, 8, 16, 32]
    for row in rows:
        for name in ("static_lors", "static_dense", "adaptive_lors", "adaptive_dense"):
            # The paper rounds to two digits, 2.4549 up to 2.46.
            assert row["ours"][name] == pytest.approx(row["paper"][name], abs=0.0052), (row["row"], name)


def test_the_figures_of_a_config_are_its_models(load_tool):
    row = {"config": "digits/lors_digits"}
    counted = load_tool("paper_tables").count({"table9": {"rows": [row]}}, ["table9"])
    ours = counted["table9"][0]["ours"]
    assert counted == {"table9": [{"row": 0, "config": row["config"], "paper": row, "ours": ours}]}
    model = instantiate(model_zoo.get_config(row["config"]).model)
    assert ours["decoder_params_m"] == parameters(model.decoder) / 1e6
    assert ours["params_m"] == parameters(model) / 1e6
    assert 0 < ours["decoder_gflops"] < ours["gflops"]


def test_a_row_in_each_form(load_tool):
    tool = load_tool("paper_tables")
    row = {"decoder_params_m": 28, "ap": 38.9, "config": "some/stages3", "notes": ["Seen twice."]}
    ours = dict(zip(tool.FIGURES, (28.1841, 52.7, 9.0, 101.25)))
    counted = {"table8": 2 * [{"row": 0, "config": row["config"], "paper": row, "ours": ours}]}
    text = tool.as_text(counted)
    assert [line.split() for line in text.splitlines()][-1] == [
        *("some/stages3", "decoder_params_m", "28", "28.184", "1.007")
    ]
    markdown = tool.as_markdown({"table8": {"what": "stages"}}, counted)
    line, other = [line for line in markdown.splitlines() if line.startswith("| [stages3]")]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert line == other and markdown.endswith("\n[^1]: Seen twice.")
    assert cells[:6] == [
        "[stages3](configs/some/stages3.py)[^1]",
        *("28 / 28.18", "- / 52.70", "- / 9.00", "- / 101.25", "38.9"),
    ]
    assert "--config-file configs/some/stages3.py " in cells[-1]


def test_the_model_zoo_is_what_is_counted(run_tool, long):
    if not long:
        pytest.skip("counts every model for three minutes: make drills")
    code, said = run_tool("paper_tables", "--markdown")
    assert code == 0 and said == Path("MODEL_ZOO.md").read_text()
