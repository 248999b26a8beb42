#!/usr/bin/env python3
"""Checks a run of the sample shop from the outside.

It shares no code with the shop: it counts the sales in the data file itself, then reads the shop's report and
its databases, and compares. Python 3.9 or newer, nothing else.

    verify.py totals DATA.csv.gz                        what the data alone fixes, as JSON
    verify.py check DATA.csv.gz REPORT.json STATE_DIR   one line per check; exit code 1 when one failed
"""

import argparse
import csv
import gzip
import json
import re
import sqlite3
import struct
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import quote

# --- What the shop writes. All names of its tables, fields and types stand here. ---

LOG_DB = "log.db"
SERVICES = ("inventory", "recommendation")  # each has <name>.db, and publishes types <name>.*

TOPICS = "SELECT id, name, compacted FROM topic"
PARTITIONS = "SELECT id, topic_id, number, start_offset, next_offset FROM partition"
RECORDS = "SELECT id, headers, value FROM record ORDER BY id"
STREAM_EVENTS = """
    SELECT stream, version, event_type, payload FROM aqueduct_stream_event ORDER BY stream, version
"""
SHELVES = "SELECT store, sku, stock, sold, refused, replenished FROM shelf"
BASKETS = "SELECT id, units FROM basket"
BASKETS_SOLD = "SELECT id, units_sold FROM basket"

OFFSET_BITS = 40  # record.id = partition.id << 40 | offset
ID_HEADER, TYPE_HEADER = b"ce_id", b"ce_type"
COPY_SUFFIXES = (".dead", ".parked")  # topics that hold copies of records, under the ids of the originals
DEAD_SUFFIX = ".dead"

BASKET_TYPE = "till.BasketCheckedOut"
RESERVED, REPLENISHED = "inventory.StockReserved", "inventory.StockReplenished"
DEPLETED = "inventory.StockDepleted"
SHELF_STREAM = re.compile(r"shelf/(\d+)/(\d+)")

LINE_COLUMNS = ("basket_id", "store_id", "product_id", "quantity")
FUEL_ABOVE = 1000  # a line with more units than this is fuel


def opening(sku):
    """The rule `cases-by-sku`: one to four cases of six."""
    return 6 * (1 + sku % 4)


# --- The data. ---


def shelf_key(store, sku):
    """One number per shelf: half the memory of a pair."""
    return store << 40 | sku


def shelf_name(key):
    return "shelf/%d/%d" % (key >> 40, key & (1 << 40) - 1)


class Data:
    """What the sales file alone fixes."""

    def __init__(self, path):
        self.baskets = {}  # basket -> units wanted, for baskets with a kept line
        self.wanted = {}  # shelf key -> units wanted
        self.lines_kept = 0
        self.set_aside = {"zero_quantity": 0, "fuel": 0}
        opener = gzip.open if str(path).endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                self._line(*(int(row[name]) for name in LINE_COLUMNS))

    def _line(self, basket, store, sku, quantity):
        if quantity < 0:
            raise ValueError("basket %d has a line with quantity %d" % (basket, quantity))
        if quantity == 0:
            self.set_aside["zero_quantity"] += 1
        elif quantity > FUEL_ABOVE:
            self.set_aside["fuel"] += 1
        else:
            key = shelf_key(store, sku)
            self.lines_kept += 1
            self.baskets[basket] = self.baskets.get(basket, 0) + quantity
            self.wanted[key] = self.wanted.get(key, 0) + quantity

    @property
    def units_wanted(self):
        return sum(self.wanted.values())

    def totals(self):
        return {
            "baskets": len(self.baskets),
            "lines_kept": self.lines_kept,
            "lines_set_aside": self.set_aside,
            "shelves": len(self.wanted),
            "stores": len({key >> 40 for key in self.wanted}),
            "units_wanted": self.units_wanted,
        }


# --- The databases. ---


class Failed(Exception):
    """A check found something wrong; the text says what."""


def need(holds, what, *values):
    if not holds:
        raise Failed(what % values)


def rows(state, database, sql):
    """Yields the rows of a query, on a connection that cannot write."""
    path = Path(state, database).resolve()
    need(path.is_file(), "%s is not there", database)
    connection = sqlite3.connect("file:%s?mode=ro" % quote(str(path)), uri=True)
    try:
        yield from connection.execute(sql)
    finally:
        connection.close()


def headers(blob):
    """Decodes [u16 name length][name][i32 value length, -1 for null][value], repeated, little-endian."""
    found, at = {}, 0
    blob = blob or b""
    while at < len(blob):
        (size,) = struct.unpack_from("<H", blob, at)
        name = blob[at + 2 : at + 2 + size]
        at += 2 + size
        (size,) = struct.unpack_from("<i", blob, at)
        at += 4
        found[name] = None if size < 0 else blob[at : at + size]
        at += max(size, 0)
    if at != len(blob):
        raise Failed("a header block ends in the middle of a header")
    return found


def plain_type(name):
    """The type without its version: `.v2` and up are written behind the name."""
    return re.sub(r"\.v\d+$", "", name)


def compact_id(text):
    """The 16 bytes of a UUID, or the text itself: millions of ids are held at once."""
    if len(text) == 36:
        try:
            return bytes.fromhex(text.replace(b"-", b"").decode("ascii"))
        except ValueError:
            pass
    return text


class Log:
    """One pass over the log. What is wrong is kept per check, so that one fault does not hide another."""

    def __init__(self, state):
        self.ids_by_type = {}  # type -> ids, in topics that hold no copies
        self.baskets = Counter()  # basket -> records
        self.basket_records = 0
        self.basket_units = {}  # basket -> units
        self.dead = Counter()  # topic -> records
        self.records = Counter()  # topic -> records
        self.repeated = []
        self.without_id = Counter()
        self.holes = []
        topics, compacted = {}, set()
        for topic_id, name, is_compacted in rows(state, LOG_DB, TOPICS):
            topics[topic_id] = name
            if is_compacted:  # compaction leaves holes between offsets
                compacted.add(name)
        partitions = {row[0]: row[1:] for row in rows(state, LOG_DB, PARTITIONS)}
        next_offset = {}
        seen = set()
        for record_id, blob, value in rows(state, LOG_DB, RECORDS):
            partition, offset = record_id >> OFFSET_BITS, record_id & (1 << OFFSET_BITS) - 1
            need(partition in partitions, "record %d belongs to no partition", record_id)
            topic_id, number, start, _ = partitions[partition]
            topic = topics.get(topic_id)
            need(topic is not None, "partition %d belongs to no topic", partition)
            self.records[topic] += 1
            expected = next_offset.get(partition, start)
            if offset != expected and not (topic in compacted and offset > expected):
                self.holes.append("%s/%d has offset %d where %d was due" % (topic, number, offset, expected))
            next_offset[partition] = offset + 1
            if topic.endswith(DEAD_SUFFIX):
                self.dead[topic] += 1
            if not topic.endswith(COPY_SUFFIXES):
                self._event(topic, offset, headers(blob), value, seen)
        for partition, (topic_id, number, start, end) in partitions.items():
            topic = topics.get(topic_id)
            need(topic is not None, "partition %d belongs to no topic", partition)
            found = next_offset.get(partition, start)
            if found != end and not (topic in compacted and found < end):
                self.holes.append("%s/%d ends at %d, its next offset is %d" % (topic, number, found, end))

    def _event(self, topic, offset, fields, value, seen):
        event_id, event_type = fields.get(ID_HEADER), fields.get(TYPE_HEADER)
        if not event_id or not event_type:
            self.without_id[topic] += 1
            return
        key = compact_id(event_id)
        if key in seen:
            self.repeated.append("%s at %s offset %d" % (event_id.decode("utf-8", "replace"), topic, offset))
        seen.add(key)
        event_type = plain_type(event_type.decode("utf-8"))
        self.ids_by_type.setdefault(event_type, set()).add(key)
        if event_type == BASKET_TYPE:
            self.basket_records += 1
            event = json.loads(value)
            self.baskets[event["basket"]] += 1
            self.basket_units[event["basket"]] = sum(line["quantity"] for line in event["lines"])


class Streams:
    """One pass over the event streams of a service, in the order of their versions."""

    def __init__(self, state, service, baskets):
        self.events = Counter()  # type -> events
        self.streams = 0
        self.gaps = []
        self.negative = []
        self.strange = []
        self.reserved_twice = []
        self.depletions = []
        self.shelves = {}  # shelf key -> (stock, sold, replenished)
        self.sold_to = Counter()  # basket -> units
        stream, version, shelf = None, 0, None
        for name, number, event_type, payload in rows(state, service + ".db", STREAM_EVENTS):
            if name != stream:
                self._close(shelf)
                stream, version, shelf = name, 0, None
                self.streams += 1
                match = SHELF_STREAM.fullmatch(name)
                if match:
                    shelf = Shelf(name, int(match.group(1)), int(match.group(2)))
            if number != version + 1:
                self.gaps.append("%s has version %s after %d" % (name, number, version))
            version = number
            event_type = plain_type(event_type)
            self.events[event_type] += 1
            if shelf is not None and event_type in (RESERVED, REPLENISHED, DEPLETED):
                self._apply(shelf, event_type, json.loads(payload), baskets)
        self._close(shelf)

    def _apply(self, shelf, event_type, event, baskets):
        if (event["store"], event["sku"]) != (shelf.store, shelf.sku):
            self.strange.append("%s holds %s" % (shelf.name, json.dumps(event)))
        if shelf.owes_depletion != (event_type == DEPLETED):
            self.depletions.append("%s has %s at stock %d" % (shelf.name, event_type, shelf.stock))
        shelf.owes_depletion = False
        if event_type == DEPLETED:
            return
        quantity = event["quantity"]
        if quantity <= 0:
            self.strange.append("%s holds %s" % (shelf.name, json.dumps(event)))
        if event_type == REPLENISHED:
            if shelf.stock != 0:
                self.depletions.append("%s was filled at stock %d" % (shelf.name, shelf.stock))
            shelf.stock += quantity
            shelf.replenished += quantity
            return
        basket = event["basket"]
        if basket in shelf.buyers:
            self.reserved_twice.append("%s by basket %s" % (shelf.name, basket))
        if basket not in baskets:
            self.strange.append("%s sells to basket %s, which is not in the data" % (shelf.name, basket))
        shelf.buyers.add(basket)
        self.sold_to[basket] += quantity
        shelf.stock -= quantity
        shelf.sold += quantity
        shelf.owes_depletion = shelf.stock == 0
        if shelf.stock < 0:
            self.negative.append("%s stands at %d" % (shelf.name, shelf.stock))

    def _close(self, shelf):
        if shelf is None:
            return
        if shelf.owes_depletion:
            self.depletions.append("%s ran out and did not say so" % shelf.name)
        self.shelves[shelf_key(shelf.store, shelf.sku)] = shelf.stock, shelf.sold, shelf.replenished


class Shelf:
    """A shelf while its events are read."""

    def __init__(self, name, store, sku):
        self.name, self.store, self.sku = name, store, sku
        self.stock, self.sold, self.replenished = opening(sku), 0, 0
        self.buyers = set()
        self.owes_depletion = False  # the last unit was sold, and StockDepleted is due next


class Shelves:
    """The shelves as the inventory shows them to its readers."""

    def __init__(self, state):
        self.all = {}  # shelf key -> (stock, sold, replenished)
        self.refused = {}  # shelf key -> units
        self.repeated = []
        for store, sku, stock, sold, refused, replenished in rows(state, "inventory.db", SHELVES):
            key = shelf_key(store, sku)
            if key in self.all:
                self.repeated.append(shelf_name(key))
            self.all[key] = stock, sold, replenished
            self.refused[key] = refused
        need(self.all, "there is no shelf")
        need(not self.repeated, "%s", some(self.repeated, "shelves stand there twice"))


def some(faults, what):
    """Counts the faults and shows the first three."""
    return "%d %s: %s" % (len(faults), what, "; ".join(map(str, faults[:3])))


# --- The checks. Each returns its figures, or raises `Failed`. ---


class Run:
    def __init__(self, data, report, state):
        self.data, self.report, self.state = data, report, state
        self._made = {}

    def _once(self, name, make):
        """Reads a part once. A part that cannot be read fails every check that needs it."""
        if name not in self._made:
            try:
                self._made[name] = make(), None
            except ERRORS as error:
                self._made[name] = None, error
        made, error = self._made[name]
        if error is not None:
            raise error
        return made

    @property
    def log(self):
        return self._once("log", lambda: Log(self.state))

    @property
    def streams(self):
        return self._once("streams", lambda: Streams(self.state, "inventory", self.data.baskets))

    @property
    def shelves(self):
        return self._once("shelves", lambda: Shelves(self.state))

    def service(self, name):
        return self.report["services"][name]

    # The report against the data.

    def report_baskets_published(self):
        published, due = self.report["baskets_published"], len(self.data.baskets)
        need(due > 0, "the data holds no basket")
        need(published == due, "%s reported, %d in the data", published, due)
        return "%d baskets" % due

    def report_lines_set_aside(self):
        reported, due = self.report["lines_set_aside"], self.data.set_aside
        need(self.data.lines_kept > 0, "the data holds no line")
        need(reported == due, "%s reported, %s in the data", reported, due)
        return "%(zero_quantity)d without quantity, %(fuel)d of fuel" % due

    def report_baskets_handled(self):
        due = len(self.data.baskets)
        for name in SERVICES:
            handled = self.service(name)["baskets_handled"]
            need(due > 0 and handled == due, "%s handled %s of %d", name, handled, due)
        return "%d in each of %s" % (due, ", ".join(SERVICES))

    def report_units(self):
        sold, refused = self.service("inventory")["units_sold"], self.service("inventory")["units_refused"]
        due = self.data.units_wanted
        need(due > 0 and sold + refused == due, "%d sold + %d refused, %d wanted", sold, refused, due)
        need(sold > 0 and refused >= 0, "%d sold, %d refused", sold, refused)
        return "%d sold + %d refused = %d wanted" % (sold, refused, due)

    # The log.

    def log_baskets(self):
        log, due = self.log, self.data.baskets
        need(log.basket_records > 0, "the log holds no %s", BASKET_TYPE)
        twice = [basket for basket, count in log.baskets.items() if count > 1]
        need(not twice, "%s", some(twice, "baskets are there more than once"))
        missing = [basket for basket in due if basket not in log.baskets]
        need(not missing, "%s", some(missing, "baskets are missing"))
        strange = [basket for basket in log.baskets if basket not in due]
        need(not strange, "%s", some(strange, "baskets are not in the data"))
        wrong = [basket for basket, units in log.basket_units.items() if units != due[basket]]
        need(not wrong, "%s", some(wrong, "baskets have other units"))
        ids = len(log.ids_by_type[BASKET_TYPE])
        need(ids == log.basket_records, "%d records, %d event ids", log.basket_records, ids)
        return "%d baskets, each once" % ids

    def log_event_ids(self):
        log = self.log
        count = sum(len(ids) for ids in log.ids_by_type.values())
        need(count > 0, "the log holds no event")
        need(not log.repeated, "%s", some(log.repeated, "event ids come again"))
        mixed = [topic for topic, without in log.without_id.items() if without < log.records[topic]]
        need(not mixed, "%s", some(mixed, "topics mix events with records that have no id or type"))
        return "%d events, each id once" % count

    def log_offsets(self):
        log = self.log
        need(sum(log.records.values()) > 0, "the log holds no record")
        need(not log.holes, "%s", some(log.holes, "faults in the offsets"))
        return "%d records in %d topics" % (sum(log.records.values()), len(log.records))

    def dead_letters(self):
        log = self.log
        need(sum(log.records.values()) > 0, "the log holds no record")
        left = dict(log.dead)
        figures = []
        for name in SERVICES:
            mine = [topic for topic in left if topic.startswith(name + ".")]
            found, reported = sum(left.pop(topic) for topic in mine), self.service(name)["dead_letters"]
            need(found == reported, "%s reported %s, the log holds %d", name, reported, found)
            figures.append("%s %d" % (name, found))
        need(not left, "dead letters of no service: %s", left)
        return ", ".join(figures)

    def _published(self, name):
        """Event types of a service with their counts, as reported and as the log has them."""
        reported = Counter()
        for event_type, count in self.service(name)["events_published"].items():
            need(event_type.startswith(name + "."), "%s reports the type %s", name, event_type)
            reported[plain_type(event_type)] += count
        logged = {key: len(ids) for key, ids in self.log.ids_by_type.items() if key.startswith(name + ".")}
        return {key: count for key, count in reported.items() if count}, logged

    def _check_published(self, name):
        reported, logged = self._published(name)
        need(logged, "the log holds no event of %s", name)
        need(reported == logged, "reported %s, in the log %s", reported, logged)
        return ", ".join("%s %d" % item for item in sorted(logged.items()))

    def published_inventory(self):
        return self._check_published("inventory")

    def published_recommendation(self):
        return self._check_published("recommendation")

    # The services.

    def _check_handled(self, name):
        due, seen, wrong, twice, strange = self.data.baskets, set(), [], [], []
        for basket, units in rows(self.state, name + ".db", BASKETS):
            basket = int(basket)
            if basket in seen:
                twice.append(basket)
            seen.add(basket)
            if basket not in due:
                strange.append(basket)
            elif units != due[basket]:
                wrong.append("basket %d has %s units, %d in the data" % (basket, units, due[basket]))
        need(seen, "no basket was handled")
        need(not twice, "%s", some(twice, "baskets were handled twice"))
        need(not strange, "%s", some(strange, "baskets are not in the data"))
        missing = [basket for basket in due if basket not in seen]
        need(not missing, "%s", some(missing, "baskets were not handled"))
        need(not wrong, "%s", some(wrong, "baskets have other units"))
        return "%d baskets, each once, %d units" % (len(seen), sum(due.values()))

    def handled_inventory(self):
        return self._check_handled("inventory")

    def handled_recommendation(self):
        return self._check_handled("recommendation")

    def stream_versions(self):
        streams = self.streams
        need(streams.streams > 0, "there is no stream")
        need(not streams.gaps, "%s", some(streams.gaps, "versions out of line"))
        return "%d events in %d streams" % (sum(streams.events.values()), streams.streams)

    def stream_events(self):
        reported, logged = self._published("inventory")
        stored = {key: count for key, count in self.streams.events.items() if key.startswith("inventory.")}
        need(stored, "there is no event")
        need(stored == reported, "in the streams %s, reported %s", stored, reported)
        need(stored == logged, "in the streams %s, in the log %s", stored, logged)
        need(not self.streams.strange, "%s", some(self.streams.strange, "events do not fit their stream"))
        return "%d events, as reported and as in the log" % sum(stored.values())

    def reserved_once(self):
        reserved = self.streams.events[RESERVED]
        need(reserved > 0, "nothing was reserved")
        twice = self.streams.reserved_twice
        need(not twice, "%s", some(twice, "shelves sold to the same basket again"))
        return "%d reservations" % reserved

    def basket_units_sold(self):
        sold_to, wrong, units_sold = self.streams.sold_to, [], 0
        for basket, units in rows(self.state, "inventory.db", BASKETS_SOLD):
            units_sold += units
            if units != sold_to[basket]:
                wrong.append("basket %d shows %d, its events say %d" % (basket, units, sold_to[basket]))
        need(not wrong, "%s", some(wrong, "baskets differ from their events"))
        due = sum(sold_to.values())
        need(units_sold > 0 and units_sold == due, "%d units in the baskets, %d in the events", units_sold, due)
        return "%d units in %d baskets" % (units_sold, len(sold_to))

    def stock_never_negative(self):
        need(self.streams.shelves, "no stream of a shelf")
        need(not self.streams.negative, "%s", some(self.streams.negative, "times a stock is below nothing"))
        return "%d shelves" % len(self.streams.shelves)

    def depletions(self):
        depleted, faults = self.streams.events[DEPLETED], self.streams.depletions
        need(depleted > 0, "no shelf ran out")
        need(not faults, "%s", some(faults, "faults around empty shelves"))
        return "%d, each once when the last unit went; filled only when empty" % depleted

    def stock_adds_up(self):
        streamed, shelves = self.streams.shelves, self.shelves.all
        need(streamed, "no stream of a shelf")
        hidden = [shelf_name(key) for key in streamed if key not in shelves]
        need(not hidden, "%s", some(hidden, "streams have no shelf"))
        wrong = []
        for key, shown in shelves.items():
            # A shelf without a stream has sold nothing yet.
            due = streamed.get(key, (opening(key & (1 << 40) - 1), 0, 0))
            if shown != due:
                wrong.append("%s shows stock, sold, replenished %s; its events say %s" % (shelf_name(key), shown, due))
        need(not wrong, "%s", some(wrong, "shelves differ from their events"))
        return "%d shelves: opening + replenished - sold = stock" % len(shelves)

    def sold_within_wanted(self):
        sold, wanted = {key: shelf[1] for key, shelf in self.streams.shelves.items()}, self.data.wanted
        need(sum(sold.values()) > 0, "nothing was sold")
        over = ["%s sold %d of %d" % (shelf_name(key), units, wanted.get(key, 0))
                for key, units in sold.items() if units > wanted.get(key, 0)]
        need(not over, "%s", some(over, "shelves sold more than was wanted"))
        return "%d units on %d shelves" % (sum(sold.values()), len(sold))

    def wanted_accounted_for(self):
        shelves, refused_by, wanted = self.shelves.all, self.shelves.refused, self.data.wanted
        wrong = []
        for key in wanted.keys() | shelves.keys():
            sold, refused = shelves.get(key, (0, 0, 0))[1], refused_by.get(key, 0)
            if sold + refused != wanted.get(key, 0):
                wrong.append("%s sold %d + refused %d of %d" % (shelf_name(key), sold, refused, wanted.get(key, 0)))
        need(wanted, "nothing was wanted")
        need(not wrong, "%s", some(sorted(wrong), "shelves do not account for what was wanted"))
        found = sum(shelf[1] for shelf in shelves.values()), sum(refused_by.values())
        reported = self.service("inventory")["units_sold"], self.service("inventory")["units_refused"]
        need(found == reported, "shelves sold and refused %s, reported %s", found, reported)
        return "%d sold + %d refused = %d wanted" % (found + (sum(found),))


CHECKS = (
    Run.report_baskets_published,
    Run.report_lines_set_aside,
    Run.report_baskets_handled,
    Run.report_units,
    Run.log_baskets,
    Run.log_event_ids,
    Run.log_offsets,
    Run.dead_letters,
    Run.published_inventory,
    Run.published_recommendation,
    Run.handled_inventory,
    Run.handled_recommendation,
    Run.stream_versions,
    Run.stream_events,
    Run.reserved_once,
    Run.basket_units_sold,
    Run.stock_never_negative,
    Run.depletions,
    Run.stock_adds_up,
    Run.sold_within_wanted,
    Run.wanted_accounted_for,
)

# What unreadable input raises: it fails the check that reads it, and the others go on.
ERRORS = (Failed, sqlite3.Error, OSError, struct.error, LookupError, TypeError, ValueError)


def check(data, report, state, out):
    """Runs every check, prints a line for each, and returns how many failed."""
    run, failed = Run(data, report, state), 0
    for one in CHECKS:
        name = one.__name__.replace("_", "-")
        try:
            print("ok %s: %s" % (name, one(run)), file=out)
        except Failed as error:
            failed += 1
            print("FAILED %s: %s" % (name, error), file=out)
        except ERRORS as error:
            failed += 1
            print("FAILED %s: %s: %s" % (name, type(error).__name__, error), file=out)
    print("%d passed, %d failed" % (len(CHECKS) - failed, failed), file=out)
    return failed


def main(arguments=None, out=None):
    out = out or sys.stdout
    parser = argparse.ArgumentParser(description="Checks a run of the sample shop from the outside.")
    commands = parser.add_subparsers(dest="command", required=True)
    totals = commands.add_parser("totals", help="print what the data alone fixes, as JSON")
    totals.add_argument("data", type=Path)
    checks = commands.add_parser("check", help="compare a report and the databases with the data")
    checks.add_argument("data", type=Path)
    checks.add_argument("report", type=Path)
    checks.add_argument("state", type=Path, help="folder of the databases")
    options = parser.parse_args(arguments)
    data = Data(options.data)
    if options.command == "totals":
        print(json.dumps(data.totals(), indent=2), file=out)
        return 0
    report = json.loads(options.report.read_text(encoding="utf-8"))
    return 1 if check(data, report, options.state, out) else 0


if __name__ == "__main__":
    sys.exit(main())
