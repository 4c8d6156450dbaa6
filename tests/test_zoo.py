"""The specimens are what they claim to be: well trained, the same each time, and free the second time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load as read_weights
from sklearn.metrics import roc_auc_score

from bentos.contract import Contract
from pipelines.core.evaluate import Tensors, row_count, take
from tests.zoo import NAMES, Specimen, digits, flights, load, minilm, texts
from tests.zoo.bert import encoder
from tests.zoo.training import seeded

AT_LEAST = {"flights": 0.72, "mlp": 0.70, "digits": 0.97, "minilm": 0.90}
JUDGED_ROWS = {"minilm": 256}
"""Of models that take long to judge."""


@pytest.fixture(params=NAMES)
def specimen(request, zoo_folder):
    return load(request.param, zoo_folder)


def answers(specimen: Specimen, feeds: Tensors) -> dict[str, np.ndarray]:
    """What the archive says, one array an output."""
    tensors = [torch.from_numpy(feeds[field.name]) for field in specimen.contract.inputs]
    with torch.inference_mode(), seeded(0):
        out = torch.export.load(specimen.source).module()(*tensors)
    outs = out if isinstance(out, tuple) else (out,)
    return {field.name: t.numpy() for field, t in zip(specimen.contract.outputs, outs, strict=True)}


def fits(field, tensor) -> bool:
    sizes = zip(field.shape, tensor.shape, strict=True)
    return tensor.dtype == field.dtype and all(wanted in (-1, size) for wanted, size in sizes)


def test_it_is_well_trained(specimen):
    rows = slice(0, JUDGED_ROWS.get(specimen.name))
    predictions = next(iter(answers(specimen, take(specimen.holdout, rows)).values()))
    if specimen.metric == "accuracy":
        quality = (predictions.argmax(1) == specimen.labels[rows]).mean()
    else:
        quality = roc_auc_score(specimen.labels[rows], predictions)
    assert quality >= AT_LEAST[specimen.name]


def test_its_contract_fits_at_any_number_of_rows(specimen):
    for rows in (1, 2, 7):
        feeds = take(specimen.holdout, slice(0, rows))
        outputs = answers(specimen, feeds)
        assert all(fits(field, feeds[field.name]) for field in specimen.contract.inputs)
        assert all(fits(field, outputs[field.name]) for field in specimen.contract.outputs)
        assert all(len(tensor) == rows for tensor in outputs.values())
    assert list(specimen.holdout) == list(specimen.calibration)
    assert len(specimen.labels) == row_count(specimen.holdout)
    assert Contract.from_dict(specimen.contract.to_dict()) == specimen.contract


def test_made_again_it_is_the_same(zoo_folder, tmp_path):
    threads, before = torch.get_num_threads(), torch.random.get_rng_state()
    assert_same(flights.make(tmp_path / "model.pt2"), flights.load(zoo_folder))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_was_not_finished_is_made_again(zoo_folder, tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "model.pt2").write_bytes(b"half")
    assert_same(digits.load(tmp_path), digits.load(zoo_folder))


def test_a_second_use_makes_nothing(zoo_folder):
    first = digits.load(zoo_folder)
    made = first.source.stat().st_mtime_ns
    second = digits.load(zoo_folder)
    assert second.source.stat().st_mtime_ns == made
    np.testing.assert_equal(vars(second), vars(first))


def assert_same(again: Specimen, first: Specimen) -> None:
    """The same rows, and the same answers to them to the last bit."""
    some = take(first.holdout, slice(0, 64))
    np.testing.assert_equal(vars(replace(again, source=first.source)), vars(first))
    np.testing.assert_equal(answers(again, some), answers(first, some))


@pytest.fixture(scope="module")
def package():
    """The weights and the tokenizer of MiniLM as its package has them."""
    weights, tokenizer, _ = texts.downloaded()
    return encoder(read_weights(weights)), tokenizer


def vectors(package, sentences: list[str]) -> np.ndarray:
    net, tokenizer = package
    with torch.inference_mode():
        feeds = texts.tokens(tokenizer, sentences)
        return net(*map(torch.from_numpy, feeds.values())).numpy()


def test_the_encoder_gives_the_published_similarities(package):
    """Those that the first page of the manual of sentence-transformers prints for all-MiniLM-L6-v2."""
    found = vectors(
        package, ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    )
    published = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
    np.testing.assert_allclose(found @ found.T, published, atol=1e-4)


def test_padding_changes_no_vector(package):
    short, long = "So happy!", "It rained all day and then the train back home was two hours late."
    np.testing.assert_allclose(vectors(package, [short, long])[:1], vectors(package, [short]), atol=1e-6)


def test_minilm_takes_any_length(zoo_folder):
    specimen = minilm.load(zoo_folder)
    one = {name: rows[:2, :1] for name, rows in specimen.holdout.items()}
    assert np.isfinite(answers(specimen, one)["probability"]).all()
