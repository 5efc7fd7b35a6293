"""One front takes another's place under programs that read: they notice nothing."""

from contextlib import ExitStack
from pathlib import Path

from atlas.testing.node import LocalNode
from atlas.testing.reading import IN_A_SLAVE_NAMESPACE, Reader
from atlas.testing.trees import make_files

OPENS = 100_000
READS_IN_EACH_FRONT = 2_000
SWAPS = ("lazy", "sealed", "lazy", "sealed", "live", "sealed", "lazy", "live", "lazy", "sealed")


def test_readers_notice_no_swap(node: LocalNode, work: Path) -> None:
    """Four that open files, in the host's mount namespace and in one that follows it, and two that
    have all files open and mapped from before the first swap."""
    source, second = work / "source", work / "second"
    make_files(source, 1000, 8_000, folders=10)
    second.mkdir()
    node.configure(swap_rest="0s", reseal_rest="0s")
    mount = node.create("data", source, "--front", "live", "--mount", str(second))
    node.wait_scanned("data")
    with ExitStack() as stack:
        openers = [
            stack.enter_context(Reader(source, place, seed, prefix=prefix))
            for seed, (place, prefix) in enumerate(
                [
                    (mount, ()),
                    (second, ()),
                    (mount, IN_A_SLAVE_NAMESPACE),
                    (second, IN_A_SLAVE_NAMESPACE),
                ]
            )
        ]
        holders = [
            stack.enter_context(Reader(source, mount, 10, hold=True)),
            stack.enter_context(Reader(source, second, 11, hold=True, cold=True)),
        ]
        readers = [*openers, *holders]
        _wait_for_reads(node, readers, 0)
        for number, front in enumerate(SWAPS):
            if number == 1:
                node.ok("cache", "warm", "data")
            node.ok("cache", "update", "data", "--front", front)
            node.wait_front("data", front)
            _wait_for_reads(node, readers, READS_IN_EACH_FRONT)
        status = node.json("cache", "describe", "data")["status"]
        reports = [reader.end(OPENS) for reader in openers] + [reader.end() for reader in holders]
    assert [report.problems for report in reports] == [[]] * 6
    opened = [report.opens for report in reports]
    print(
        f"{len(SWAPS)} swaps, {sum(opened)} opens, {sum(report.reads for report in reports)} reads,"
        f" longest {max(report.longest_seconds for report in reports):.2f} s"
    )
    assert min(opened[:4]) >= OPENS
    # Each saw most of them: two that fall between two of its looks are none to it.
    assert min(report.swaps for report in reports) > len(SWAPS) // 2
    # What the holders had open was served to the end.
    assert [front["front"] for front in status["fronts"]][:1] == ["sealed"]
    assert any(front["front"] == "live" and front["users"] == 2 for front in status["fronts"])
    node.wait_for(
        lambda: len(node.status("data")["fronts"]) == 1,
        "the earlier fronts to end with their users",
    )


def _wait_for_reads(node: LocalNode, readers: list[Reader], more: int) -> None:
    before = [max(0, reader.reads()) for reader in readers]
    node.wait_for(
        lambda: all(
            reader.reads() >= count + more or reader.process.poll() is not None
            for reader, count in zip(readers, before, strict=True)
        ),
        f"{more} more reads of each reader",
    )


def test_users_behind_a_swap_in_another_namespace_are_known(node: LocalNode, work: Path) -> None:
    """Where a namespace follows, the earlier front is in no mount table any more."""
    source = work / "source"
    make_files(source, 20, 8_000)
    node.configure(swap_rest="0s")
    mount = node.create("data", source, "--front", "live")
    node.wait_scanned("data")
    with Reader(source, mount, 1, hold=True, prefix=IN_A_SLAVE_NAMESPACE) as reader:
        node.wait_for(lambda: reader.reads() > 0, "the reader")
        node.ok("cache", "update", "data", "--front", "lazy")
        node.wait_front("data", "lazy")
        fronts = node.json("cache", "describe", "data")["status"]["fronts"]
        users = {front["front"]: [user["pid"] for user in front["holders"]] for front in fronts}
        assert users == {"lazy": [], "live": [reader.process.pid]}
        for command in (("node", "stop"), ("cache", "delete", "data", "-y")):
            refused = node.run(*command)
            assert refused.returncode == 4, refused.stderr
            assert str(reader.process.pid) in refused.stderr
        before = reader.reads()
        node.wait_for(lambda: reader.reads() > before, "the reader to go on")
        assert reader.end().problems == []
    node.ok("cache", "delete", "data", "-y")
