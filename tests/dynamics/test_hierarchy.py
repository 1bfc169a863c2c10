"""The hierarchy of bins against a table of all numbers."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.dynamics.hierarchy import HierarchyPDF, all_prefixes, digits_of
from posttrain.errors import DataError


def conditionals(seed: int, digits: int) -> dict[tuple[int, ...], np.ndarray]:
    draw = np.random.default_rng(seed)
    return {p: draw.dirichlet(np.ones(10)) for p in [(), *all_prefixes(digits)]}


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_all_bins_refined_are_the_product_of_the_conditionals(digits: int) -> None:
    table = conditionals(0, digits)
    pdf = HierarchyPDF(digits, table[()])
    for prefix in all_prefixes(digits):
        pdf.refine(prefix, table[prefix])
    expected = []
    for number in range(10**digits):
        path = digits_of(number, digits)
        expected.append(np.prod([table[path[:i]][path[i]] for i in range(digits)]))
    np.testing.assert_allclose(pdf.mass(), expected, rtol=1e-12)
    assert pdf.mass().sum() == pytest.approx(1, abs=1e-12) and not pdf.open_bins()


def test_a_bin_that_is_not_refined_is_uniform_and_keeps_its_mass() -> None:
    table = conditionals(1, 3)
    pdf = HierarchyPDF(3, table[()])
    pdf.refine((4,), table[(4,)])
    pdf.refine((4, 2), table[(4, 2)])
    mass = pdf.mass()
    assert mass.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(mass[:100], table[()][0] / 100)
    np.testing.assert_allclose(mass[430:440], table[()][4] * table[(4,)][3] / 10)
    np.testing.assert_allclose(mass[427], table[()][4] * table[(4,)][2] * table[(4, 2)][7])
    assert mass[500:600].sum() == pytest.approx(pdf.mass_of((5,)))
    assert pdf.mass_of((5, 3)) == pytest.approx(table[()][5] / 10)


def test_open_bins_have_the_mass_that_is_asked_for() -> None:
    pdf = HierarchyPDF(2, [0.6, 0.3, 0.1, *[0] * 7])
    assert pdf.open_bins(0.2) == [(0,), (1,)]
    pdf.refine((0,), np.ones(10))
    assert pdf.open_bins(0.2) == [(1,)]


def test_what_is_no_bin_is_refused() -> None:
    pdf = HierarchyPDF(3, np.ones(10))
    for prefix in ((), (1, 2), (1, 2, 3)):
        with pytest.raises(DataError):
            pdf.refine(prefix, np.ones(10))
    pdf.refine((1,), np.ones(10))
    for bad in (np.ones(9), np.zeros(10), -np.ones(10)):
        with pytest.raises(DataError):
            pdf.refine((2,), bad)
    with pytest.raises(DataError):
        pdf.refine((1,), np.ones(10))
