"""Command-line overrides reach a config, or are refused with the nearest key."""

from __future__ import annotations

import pytest
from detectron2.config import LazyCall, instantiate
from omegaconf import OmegaConf

from lors.adamixer import Queries
from lors.sharing import LowRank
from lors.training.overrides import apply_overrides


def take(size, *values, **options):
    return {"size": size, **options}


@pytest.fixture
def cfg():
    return OmegaConf.create(
        {
            "train": {"max_iter": 100, "output_dir": "./output"},
            "drops": [8, 11],
            "queries": LazyCall(Queries)(num_queries=3, query_dim=8),
            "output": LazyCall(LowRank)(rank=2),
            "open": LazyCall(take)(size=1),
        },
        flags={"allow_objects": True},
    )


def test_known_keys_are_set_with_their_type(cfg):
    cfg = apply_overrides(cfg, ["train.max_iter=7", "train.output_dir=/tmp/ab", "queries.num_queries=5"])
    assert cfg.train.max_iter == 7
    assert cfg.train.output_dir == "/tmp/ab"
    content, _ = instantiate(cfg.queries)([(4, 4)])
    assert content.shape == (1, 5, 8)


def test_an_argument_that_the_target_takes_is_known(cfg):
    cfg = apply_overrides(cfg, ["output.groups=[1,2]", "output.init=released"])
    residual = instantiate(cfg.output)
    assert (residual.rank, residual.groups, residual.init) == (2, (1, 2), "released")


def test_where_any_argument_is_taken_any_is_known(cfg):
    assert instantiate(apply_overrides(cfg, ["open.depth=3"]).open) == {"size": 1, "depth": 3}


def test_an_item_of_a_list_is_known_within_its_length(cfg):
    assert list(apply_overrides(cfg, ["drops.1=10"]).drops) == [8, 10]
    with pytest.raises(ValueError, match=r"override 'drops\.2': no such key .*'drops"):
        apply_overrides(cfg, ["drops.2=10"])


@pytest.mark.parametrize(
    "wrong, nearest",
    [
        ("train.max_iters", "train.max_iter"),
        ("trian.output_dir", "train.output_dir"),
        ("max_iter", "train.max_iter"),
        ("queries.num_query", "queries.num_queries"),
        ("train.max_iter.deeper", "train.max_iter"),
        ("output.self", "output"),
    ],
)
def test_an_unknown_key_names_the_nearest(cfg, wrong, nearest):
    with pytest.raises(ValueError) as raised:
        apply_overrides(cfg, ["train.max_iter=1", f"{wrong}=3"])
    message = str(raised.value)
    assert f"'{wrong}'" in message and f"'{nearest}" in message and "\n" not in message
    # All are checked before any is applied.
    assert cfg.train.max_iter == 100


def test_a_value_that_cannot_be_parsed_is_named(cfg):
    with pytest.raises(ValueError) as raised:
        apply_overrides(cfg, ["train.max_iter=1", "drops=[1,"])
    assert "'drops=[1,'" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text", ["set (1)/a.json", "数据", "a,b", "it's", "2024", "true", "[1", "a=b", "a: {b}", "~/x", "", "1e5"]
)
def test_a_text_is_the_text_that_was_typed(cfg, text):
    assert apply_overrides(cfg, [f"train.output_dir={text}"]).train.output_dir == text


@pytest.mark.parametrize("text", ["'a (1)'", '"a (1)"'])
def test_quotes_around_a_text_are_left_out(cfg, text):
    assert apply_overrides(cfg, [f"train.output_dir={text}"]).train.output_dir == "a (1)"


def test_a_value_of_another_kind_is_refused(cfg):
    for override, before in (("train.max_iter=soon", 100), ("queries.num_queries=true", 3)):
        with pytest.raises(ValueError, match=f"'{override}': .* {before} "):
            apply_overrides(cfg, [override])


def test_a_comma_in_a_number_is_refused(cfg):
    with pytest.raises(ValueError, match=r"'train\.max_iter=1,000': .*\[ \]"):
        apply_overrides(cfg, ["train.max_iter=1,000"])


def test_a_text_without_an_equals_sign_is_refused(cfg):
    with pytest.raises(ValueError, match="override 'train.max_iter': must be key=value"):
        apply_overrides(cfg, ["train.max_iter"])
