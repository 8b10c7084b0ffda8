"""The benchmark times four detectors, three of which give the same."""

import importlib.util
import json
import sys
import weakref
from pathlib import Path

import pytest
import torch

from lors.bank import ParameterBank
from lors.stack import DenseGenerator, DenseLinear


@pytest.fixture(scope="module")
def benchmark():
    file = Path(__file__).parent.parent / "tools" / "benchmark.py"
    spec = importlib.util.spec_from_file_location("benchmark_tool", file)
    tool = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tool  # dataclasses look there
    spec.loader.exec_module(tool)
    return tool


@pytest.fixture
def models(benchmark, tiny_model):
    plain = ParameterBank(
        DenseGenerator(2, 16, (2, 4, 4)), DenseGenerator(2, 16, (2, 4, 3)), DenseLinear(2, 2 * 3 * 4, 16)
    )
    models = {"LORS": tiny_model(), "plain": tiny_model(plain)}
    for parameter in models["LORS"].decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return benchmark.with_twins(models)


@pytest.mark.parametrize("part", ["decoder", "detector"])
def test_what_is_timed_gives_the_same(part, benchmark, models):
    for training in (False, True):
        case = benchmark.Case(part, training, queries=7, batch=2)
        forwards = benchmark.prepare(models, case, (64, 96))
        # The queries of a detector are drawn with the case.
        for name in ("literal", "merged"):
            models[name].queries = models["LORS"].queries
        models["plain"].queries = models["LORS"].queries
        literal, lors, merged = (forwards[name]() for name in ("literal", "LORS", "merged"))
        if training:
            assert literal.requires_grad and lors.item() > 0
        elif part == "detector":
            literal, lors, merged = (
                [image["instances"].pred_boxes.tensor for image in out] for out in (literal, lors, merged)
            )
        torch.testing.assert_close(lors, literal, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(merged, literal, rtol=1e-4, atol=1e-3)


def test_a_record_has_times_ratios_and_memory(benchmark, models):
    case = benchmark.Case("decoder", True, queries=5, batch=1)
    record = benchmark.measure(models, case, (64, 96), benchmark.Effort(2, 2, 0.0))
    assert record["turns"] == 2 and set(record["seconds"]) == set(benchmark.VARIANTS)
    assert all(value > 0 for value in (*record["seconds"].values(), *record["ratios"].values()))
    kept = {name: memory["kept"] for name, memory in record["memory_bytes"].items()}
    assert set(kept) == set(benchmark.VARIANTS) and all(size > 0 for size in kept.values())
    parts = {"LORS": benchmark.parts(models["LORS"], (64, 96), turns=2)}
    machine = benchmark.machine(torch.device("cpu"))
    report = {"machine": machine, "counts": {}, "parts": parts, "cases": [record]}
    assert "sampling" in benchmark.as_text(report)
    assert "literal / LORS" in benchmark.as_text(report) and "kept" in benchmark.memory_as_text(report)
    assert json.loads(json.dumps(report)) == report


def test_what_a_step_keeps_is_counted_and_let_go(benchmark):
    model, outputs = torch.nn.Linear(8, 8), []

    def forward() -> torch.Tensor:
        output = model(torch.randn(16, 8)).exp()  # keeps its input and its own output
        outputs.append(weakref.ref(output))
        return output.sum()

    assert benchmark.kept_bytes(model, forward) == 2 * 16 * 8 * 4
    assert outputs[0]() is None


def test_cases_cover_what_the_tables_need(benchmark):
    cases = benchmark.cases(quick=False, cuda=False)
    assert {(c.part, c.training) for c in cases} == {
        (part, training) for part in ("decoder", "detector") for training in (False, True)
    }
    assert {c.queries for c in cases} == {100, 300, 900} and {c.batch for c in cases} == {1, 2}
    assert not any(c.bfloat16 or c.compiled for c in cases)
    assert any(c.compiled and c.batch == 8 for c in benchmark.cases(quick=False, cuda=True))
