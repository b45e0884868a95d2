from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr_plugins import randomness

KEYS = np.array([randomness.hash_key(f"n/{i}.jpg") for i in range(500)], np.uint64)


def test_choices_are_pinned() -> None:
    # Changing these numbers changes which reinforcement every existing training run gets, and the
    # views of every set made from now on.
    assert randomness.hash_key("n01440764/n01440764_10026.JPEG") == 3201564428367291821
    assert randomness.choose_samples(0, 3, KEYS[:4], 400).tolist() == [25, 3, 183, 222]
    assert randomness.uniform(7, 1, KEYS[:2]).tolist() == [0.6320927129787655, 0.5014162884469585]
    generator = randomness.image_generator(seed=7, key_hash=9, counter=3, stream=2)
    assert generator.bit_generator.random_raw(2).tolist() == [
        17853128749695503794,
        10503054663876025097,
    ]
    default = randomness.image_generator(7, 9, 3).random()
    assert default == randomness.image_generator(7, 9, 3, stream=0).random()


@given(samples=st.integers(1, 60), seed=st.integers(0, 2**62), round_=st.integers(0, 3))
def test_choose_samples_uses_every_reinforcement_once_per_round(
    samples: int, seed: int, round_: int
) -> None:
    epochs = range(round_ * samples, (round_ + 1) * samples)
    table = np.stack(
        [randomness.choose_samples(seed, epoch, KEYS[:20], samples) for epoch in epochs]
    )
    assert (np.sort(table, axis=0) == np.arange(samples)[:, None]).all()


def test_choose_samples_is_spread_over_images_and_differs_between_rounds_and_seeds() -> None:
    first = randomness.choose_samples(0, 0, KEYS, 10)
    counts = np.bincount(first, minlength=10)
    assert counts.min() > 25
    assert counts.max() < 80
    for other in (
        randomness.choose_samples(0, 10, KEYS, 10),
        randomness.choose_samples(1, 0, KEYS, 10),
    ):
        assert 0.05 < (other == first).mean() < 0.16


def test_uniform_is_uniform_and_independent_of_the_walk() -> None:
    draws = np.concatenate([randomness.uniform(3, epoch, KEYS) for epoch in range(20)])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.histogram(draws, 10, (0, 1))[0] == pytest.approx([1000] * 10, rel=0.12)
    walk = np.concatenate([randomness.choose_samples(3, epoch, KEYS, 1000) for epoch in range(20)])
    assert abs(np.corrcoef(draws, walk)[0, 1]) < 0.03


def test_choices_do_not_depend_on_the_rest_of_the_batch() -> None:
    alone = [randomness.choose_samples(5, 2, KEYS[i : i + 1], 37)[0] for i in range(50)]
    assert alone == randomness.choose_samples(5, 2, KEYS[:50], 37).tolist()


def test_generators_are_independent_of_each_other() -> None:
    def draw(*args: int) -> float:
        return randomness.image_generator(*args).random()

    values = {draw(s, k, c, t) for s in (0, 1) for k in (0, 9) for c in (0, 1) for t in (0, 1)}
    assert len(values) == 16
    assert draw(3, 2**64 - 1, 5) == draw(3, 2**64 - 1, 5)
