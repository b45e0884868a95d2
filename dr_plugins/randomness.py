"""Counter-based random choices: pure functions of seed, image key and a counter.

Nothing here has state, so every worker and rank draws the same numbers for the same image.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from math import gcd

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SAMPLES, _UNIFORM = 1, 2


def hash_key(key: str | bytes) -> int:
    """Return a 64-bit hash of an image key, the same on every machine and in every process."""
    data = key.encode() if isinstance(key, str) else key
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def image_generator(seed: int, key_hash: int, counter: int, stream: int = 0) -> np.random.Generator:
    """Return an independent generator for one (seed, image, counter, stream).

    Args:
        seed: 0 <= seed < 2**64.
        key_hash: From `hash_key`.
        counter: Number of the reinforcement, or an epoch.
        stream: Separates unrelated uses of the same counter.

    Example:
        >>> a = image_generator(0, hash_key("n01/a.jpg"), 3).random()
        >>> a == image_generator(0, hash_key("n01/a.jpg"), 3).random()
        True
    """
    # Drawing advances the first word of Philox's counter; the other words are ours.
    bits = np.random.Philox(
        key=np.array([seed, key_hash], np.uint64),
        counter=np.array([0, counter, stream, 0], np.uint64),
    )
    return np.random.Generator(bits)


def choose_samples(seed: int, epoch: int, key_hashes: np.ndarray, samples: int) -> np.ndarray:
    """Choose one reinforcement for each image; none repeats before all have been used.

    In each round of `samples` epochs, ``step -> (a * step + b) mod samples`` with ``a`` coprime to
    ``samples`` permutes an image's reinforcements; ``a`` and ``b`` are hashed from seed, round and
    image.

    Args:
        seed: 0 <= seed < 2**64.
        epoch: Epoch number, from 0.
        key_hashes: uint64 ``[B]``, from `hash_key`.
        samples: Reinforcements per image, S.

    Returns:
        int64 ``[B]``, each within ``[0, S)``.
    """
    round_, step = divmod(epoch, samples)
    bits = _mix(key_hashes, seed, round_, _SAMPLES)
    multipliers = _coprimes(samples)
    a = multipliers[(bits & np.uint64(0xFFFFFFFF)) % np.uint64(len(multipliers))]
    b = (bits >> np.uint64(32)) % np.uint64(samples)
    return ((a * np.uint64(step) + b) % np.uint64(samples)).astype(np.int64)


def uniform(seed: int, epoch: int, key_hashes: np.ndarray) -> np.ndarray:
    """Return one number in ``[0, 1)`` for each image and epoch, float64 ``[B]``."""
    return (_mix(key_hashes, seed, epoch, _UNIFORM) >> np.uint64(11)) * 2.0**-53


def _mix(key_hashes: np.ndarray, *words: int) -> np.ndarray:
    """Mix `words` into `key_hashes` with SplitMix64's finaliser (Steele et al., 2014)."""
    state = np.asarray(key_hashes, np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            state = state + _GOLDEN * np.uint64(word + 1)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


@lru_cache(maxsize=16)
def _coprimes(samples: int) -> np.ndarray:
    return np.array([a for a in range(1, samples + 1) if gcd(a, samples) == 1], np.uint64)
