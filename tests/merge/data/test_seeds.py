from samclip.merge.data.seeds import SEED_BITS, derive_seed


def test_a_seed_is_the_same_everywhere() -> None:
    # Written down, because a change would alter every run.
    assert derive_seed("view", 0, "head") == 6749104485159166100


def test_every_part_counts_and_parts_do_not_run_together() -> None:
    seeds = {
        derive_seed("a", "bc"),
        derive_seed("ab", "c"),
        derive_seed("abc"),
        derive_seed("a", 1),
        derive_seed("a", "1"),
    }
    assert len(seeds) == 5


def test_seeds_fit_what_takes_them() -> None:
    seeds = [derive_seed("size", i) for i in range(1000)]
    assert min(seeds) >= 0
    assert max(seeds) < 2**SEED_BITS
    assert max(seeds) > 2 ** (SEED_BITS - 1)  # and use the whole range
