"""Who sits where: one row that stands for all, flattened batches, other numbers of rows than were announced."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.errors import ModelError
from easyedit_personal.serving.multi_adapter import RowAdapters
from easyedit_personal.types import WeightDelta

PATH = "mlp"


def delta(seed, rank, d_out=3, d_in=4):
    generator = torch.Generator().manual_seed(seed)
    return WeightDelta(
        PATH, torch.randn(d_out, rank, generator=generator), torch.randn(rank, d_in, generator=generator)
    )


ROWS = [{PATH: delta(1, 1)}, {}, {PATH: delta(2, 2)}]
INPUTS, OUTPUT = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 5, 3)


def wanted(inputs):
    return torch.stack([x @ row[PATH].update().T if row else 0 * x[:, :3] for row, x in zip(ROWS, inputs)])


def test_every_row_gets_its_own():
    torch.testing.assert_close(RowAdapters(dict(enumerate(ROWS))).add(PATH, INPUTS, OUTPUT), wanted(INPUTS))


def test_one_row_stands_for_all_and_all_leave():
    found = RowAdapters(dict(enumerate(ROWS))).add(PATH, INPUTS[:1], OUTPUT[:1])
    torch.testing.assert_close(found, wanted(INPUTS[:1].expand(3, -1, -1)))


def test_a_batch_may_come_flattened():
    found = RowAdapters(dict(enumerate(ROWS))).add(PATH, INPUTS.flatten(0, 1), OUTPUT.flatten(0, 1))
    torch.testing.assert_close(found, wanted(INPUTS).flatten(0, 1))


def test_who_is_seated_anew_is_answered_anew():
    adapters = RowAdapters(dict(enumerate(ROWS)))
    adapters.add(PATH, INPUTS, OUTPUT)
    adapters.set_rows([2, 0])
    found = adapters.add(PATH, INPUTS[[2, 0]], OUTPUT[:2])
    torch.testing.assert_close(found, wanted(INPUTS)[[2, 0]])


def test_another_number_of_rows_is_refused():
    with pytest.raises(ModelError, match=r"(?s)another number of rows.*2.*3 rows"):
        RowAdapters(dict(enumerate(ROWS))).add(PATH, INPUTS[:2], OUTPUT[:2])


def test_without_anybodys_factors_the_output_passes():
    assert RowAdapters({0: {}, 1: {}}).add(PATH, INPUTS[:2], OUTPUT) is OUTPUT


@pytest.mark.parametrize(
    ("ranks", "groups"),
    [([4, 8], 1), ([4, 0], 1), ([1, 1, 16], 2), ([1, 2, 3, 16, 16], 4), ([5, 5, 5], 1), ([0, 0], 0), ([1, 0, 0], 1)],
)
def test_padding_at_most_doubles_the_work(ranks, groups):
    people = [{PATH: delta(n, rank, d_out=20, d_in=20)} if rank else {} for n, rank in enumerate(ranks)]
    inputs = torch.randn(len(ranks), 2, 20, generator=torch.Generator().manual_seed(1))
    adapters = RowAdapters(dict(enumerate(people)))
    found = adapters.add(PATH, inputs, torch.zeros_like(inputs))
    assert len(adapters._groups[PATH]) == groups
    wanted = [x @ row[PATH].update().T if row else 0 * x for row, x in zip(people, inputs)]
    torch.testing.assert_close(found, torch.stack(wanted))
