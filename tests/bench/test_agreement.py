"""Two runs agree where their intervals meet."""

import agreement


def row(provider, low, high, device=("", "")):
    return {
        **{"operation": "rank", "workload": "w", "provider": provider, "dtype": "float32"},
        **{"wall_ms": str(low), "wall_p20_ms": str(low), "wall_p80_ms": str(high)},
        **{"device_ms": str(device[0]), "device_p20_ms": str(device[0]), "device_p80_ms": str(device[1])},
    }


def test_intervals():
    first = [row("a", 1, 2), row("b", 1, 2), row("c", 1, 2, device=(5, 6)), row("only here", 1, 2)]
    second = [row("a", 2, 3), row("b", 2.1, 3), row("c", 1, 2, device=(7, 8)), row("only there", 1, 2)]
    count, apart = agreement.compare(first, second)
    assert count == 3
    assert [line.partition(":")[0] for line in apart] == ["rank | w | b | float32", "rank | w | c | float32"]
