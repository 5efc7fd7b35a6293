"""Data sets, events and nodes as people read them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from atlas.api import models
from atlas.api.units import format_duration, format_size, parse_time, printable
from atlas.cli.text import table

_LAST_EVENTS = 10
_FIRST_HOLDERS = 3
_MOST_FREQUENT = 3
_NO_LIMIT = 1 << 60
"""Sizes from here on are nobody's wish: a limit that is not set."""


def age(timestamp: str | None) -> str:
    """How long ago an RFC 3339 time was, in its two largest units."""
    if not timestamp:
        return "-"
    return format_duration(max(0.0, time.time() - parse_time(timestamp)))


def total_size(status: models.DatasetStatus) -> str:
    """The size of the origin; what a scan has counted that has not seen all carries a '+'."""
    return format_size(status.total_bytes) + _more(status)


def _more(status: models.DatasetStatus) -> str:
    return "" if status.scan.state == "Complete" else "+"


def hit_ratio(status: models.DatasetStatus) -> str:
    """The share of bytes that the engine served from the cache; '-' before any was asked for."""
    asked = status.hit_bytes + status.miss_bytes
    return f"{100 * status.hit_bytes / asked:.1f}%" if asked else "-"


def dataset_table(items: Sequence[models.Dataset], *, wide: bool) -> list[str]:
    """One row for each data set; no line at all for none."""
    if not items:
        return []
    header = ["NAME", "UFS TOTAL SIZE", "CACHED", "CACHE CAPACITY", "CACHED PERCENTAGE", "PHASE"]
    if wide:
        header += ["FILES", "CACHE HIT RATIO", "SCAN", "FRONT", "SOURCE", "PATH"]
    rows = []
    for dataset in items:
        status = dataset.status
        row = [
            dataset.metadata.name,
            total_size(status),
            format_size(status.cached_bytes),
            format_size(status.cache_capacity_bytes),
            f"{status.cached_percentage:.1f}%",
            status.phase,
        ]
        if wide:
            row += [
                f"{status.files:,}" + _more(status),
                hit_ratio(status),
                status.scan.state,
                status.front or "-",
                ",".join(source.source for source in dataset.spec.mounts),
                status.mount_path or "-",
            ]
        rows.append([*row, age(dataset.metadata.creation_timestamp)])
    return table([*header, "AGE"], rows)


def dataset_lines(dataset: models.Dataset, events: Sequence[models.Event]) -> list[str]:
    """What `cache describe` prints."""
    status, spec = dataset.status, dataset.spec
    growing = " so far" if status.scan.state == "Running" else ""
    other_paths = [path for path in status.mount_paths if path != status.mount_path]
    fields = [
        ("Name", dataset.metadata.name),
        ("Phase", status.phase),
        ("Created", f"{dataset.metadata.creation_timestamp or '-'}"),
        ("Owner", spec.owner or "-"),
        ("Source", ", ".join(source.source for source in spec.mounts)),
        ("Path", status.mount_path or "-"),
        *[("Also at", path) for path in other_paths],
        *[("Include", pattern) for pattern in spec.include],
        *[("Exclude", pattern) for pattern in spec.exclude],
        ("Front", _with_reason(status.front or "-", status.front_reason)),
        ("Front setting", spec.front),
        ("Sync", f"{spec.sync}; generation {status.generation}"),
        ("Scan", _with_reason(status.scan.state, status.scan.error)),
        (
            "Contents",
            (
                f"{status.files:,} files, {status.folders:,} folders, {status.links:,} links,"
                f" {format_size(status.total_bytes)}{growing}"
            ),
        ),
        (
            "Cached",
            (
                f"{status.cached_files:,} files, {format_size(status.cached_bytes)}"
                f" ({status.cached_percentage:.1f}%)"
            ),
        ),
        ("Verified", _verified(status)),
        ("Image", _image(status.image)),
        (
            "Reads",
            (
                f"{format_size(status.hit_bytes)} from the cache, {format_size(status.miss_bytes)}"
                f" missed (hit ratio {hit_ratio(status)};"
                " warm reads that the kernel answers are not counted)"
            ),
        ),
        (
            "Origin",
            f"{status.origin_requests:,} requests, {format_size(status.origin_read_bytes)} read",
        ),
        (
            "Messages",
            f"live: {_messages(status.fuse_requests)}; lazy: {_messages(status.twin_requests)}",
        ),
    ]
    if status.stale_files:
        fields.append(("Changed", f"{status.stale_files:,} files changed at the origin since"))
    lines = _fields(fields)
    if status.fronts:
        lines += ["", "Fronts:", *_indented(front_lines(status.fronts))]
    lines += ["", "Tiers:", *_indented(tier_table(status.tiers))]
    if status.leaving_links.count:
        lines += [
            "",
            (
                f"Links that leave the data set: {status.leaving_links.count:,}"
                " (what is read through them bypasses the cache)"
            ),
            *[f"  {printable(name)}" for name in status.leaving_links.names],
        ]
        more = status.leaving_links.count - len(status.leaving_links.names)
        if more > 0:
            lines.append(f"  and {more:,} more")
    if status.conditions:
        rows = [
            [entry.type, entry.status, entry.reason, entry.message, age(entry.last_transition_time)]
            for entry in status.conditions
        ]
        header = ["TYPE", "STATUS", "REASON", "MESSAGE", "SINCE"]
        lines += ["", "Conditions:", *_indented(table(header, rows))]
    if events:
        lines += ["", "Events:", *_indented(event_lines(events[-_LAST_EVENTS:]))]
        if len(events) > _LAST_EVENTS:
            lines.append(f"  (the last {_LAST_EVENTS}; all: atlasctl cache events ...)")
    return lines


def front_lines(fronts: Sequence[models.Front]) -> list[str]:
    """The fronts of one data set as rows, and below them the first processes that use each."""
    rows = [
        [
            front.front,
            "attached" if front.attached else "detached",
            age(front.since),
            "-" if front.users is None else f"{front.users:,}",
            ", ".join(front.mount_paths) or "-",
            front.reason,
        ]
        for front in fronts
    ]
    lines = table(["FRONT", "STATE", "SINCE", "USERS", "PATHS", "REASON"], rows)
    for front in fronts:
        shown = front.holders[:_FIRST_HOLDERS]
        if shown:
            users = [f"{holder.command} (pid {holder.pid}, {holder.use})" for holder in shown]
            more = (front.users or 0) - len(shown)
            rest = f" and {more:,} more" if more > 0 else ""
            lines.append(f"Users of {front.front}: {printable(', '.join(users))}{rest}")
    return lines


def _verified(status: models.DatasetStatus) -> str:
    compared = f"{format_size(status.verified_bytes)} compared with checksums"
    return f"{compared}; {status.damaged_extents:,} damaged extents found"


def _image(image: models.ImageStatus) -> str:
    if image.state == "Ready":
        return f"Ready ({format_size(image.bytes)}, written in {image.seconds:.1f} s)"
    return _with_reason(image.state, image.error)


def _messages(requests: dict[str, int]) -> str:
    """How many messages the kernel has sent, and which ones most."""
    if not requests:
        return "0"
    most = sorted(requests.items(), key=lambda entry: (-entry[1], entry[0]))[:_MOST_FREQUENT]
    named = ", ".join(f"{name} {count:,}" for name, count in most)
    return f"{sum(requests.values()):,} ({named}{', ...' if len(requests) > len(most) else ''})"


def event_lines(events: Sequence[models.Event]) -> list[str]:
    """Events as rows; no line at all for none."""
    if not events:
        return []
    rows = [
        [age(event.time), event.type, event.reason, str(event.count), event.message]
        for event in events
    ]
    return table(["LAST SEEN", "TYPE", "REASON", "COUNT", "MESSAGE"], rows)


def mount_table(mounts: Sequence[models.Mount]) -> list[str]:
    """Where data sets are shown; no line at all for none."""
    if not mounts:
        return []
    rows = [
        [
            mount.spec.path,
            mount.spec.dataset,
            "node" if mount.status.own else "user",
            "Attached" if mount.status.attached else "Detached",
        ]
        for mount in mounts
    ]
    return table(["PATH", "DATA SET", "KIND", "STATE"], rows)


def tier_table(tiers: Sequence[models.TierStatus]) -> list[str]:
    """Tiers with what is used of their quota."""
    rows = [
        [
            tier.medium,
            format_size(tier.used_bytes),
            format_size(tier.quota_bytes),
            "-" if tier.available_bytes is None else format_size(tier.available_bytes),
            tier.path,
        ]
        for tier in tiers
    ]
    return table(["MEDIUM", "USED", "QUOTA", "FREE", "FOLDER"], rows)


def node_lines(node: models.Node) -> list[str]:
    """What `node describe` prints."""
    status = node.status
    keeper = f"pid {status.keeper.pid}, {status.keeper.restarts} restarts of the node"
    lines = _fields(
        [
            ("Name", node.metadata.name),
            ("Version", status.version),
            ("Pid", f"{status.pid} (uid {status.uid})"),
            ("Up", format_duration(status.uptime_seconds)),
            ("Keeper", keeper if status.keeper.alive else "gone: mounts die with the node"),
            ("Socket", status.socket),
            ("State", status.state or "-"),
            ("Log", status.log or "-"),
            ("Data sets", f"{status.datasets:,}"),
            (
                "Memory",
                (
                    f"{format_size(status.limits.memory_granted_bytes)} granted"
                    f" of {format_size(status.limits.memory_bytes)}"
                ),
            ),
            (
                "Per user",
                f"{_limit(status.limits.user_bytes)}, {status.limits.user_datasets} data sets",
            ),
        ]
    )
    if status.tiers:
        lines += ["", "Tiers:", *_indented(tier_table(status.tiers))]
    if status.capabilities:
        rows = [[name, answer] for name, answer in status.capabilities.items()]
        lines += ["", "Capabilities:", *_indented(table(["WHAT", "ANSWER"], rows))]
    return lines


def _limit(size: int) -> str:
    return "any size" if size >= _NO_LIMIT else format_size(size)


def _with_reason(word: str, reason: str | None) -> str:
    return f"{word} ({reason})" if reason else word


def _fields(fields: Sequence[tuple[str, str]]) -> list[str]:
    longest = max(len(label) for label, _ in fields) + 1
    return [f"{label + ':':<{longest}}  {printable(value)}" for label, value in fields]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]
