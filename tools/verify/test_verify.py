"""Shows that every check of verify.py is green on a sound run and red on the fault that it is there for."""

import csv
import gzip
import io
import json
import sqlite3
import struct
import tempfile
import unittest
import uuid
from collections import Counter
from contextlib import closing
from pathlib import Path

import verify

COLUMNS = "basket_id store_id household_id timestamp product_id quantity sales_value_cents".split()
# basket, store, [(product, quantity)]; product 4 opens with 6 units, product 5 with 12.
SALES = (
    (101, 1, [(4, 2), (5, 3)]),
    (102, 1, [(4, 4), (7, 0)]),
    (103, 2, [(5, 12), (6534178, 9000)]),
    (104, 2, [(5, 2)]),
    (105, 1, [(4, 1)]),
    (106, 2, [(6534178, 5000)]),  # only fuel: never published
)
CREATE_LOG = """
    CREATE TABLE topic (id INTEGER PRIMARY KEY, name TEXT, uuid BLOB, partitions INTEGER,
                        retention_ms INTEGER, retention_bytes INTEGER, compacted INTEGER);
    CREATE TABLE partition (id INTEGER PRIMARY KEY, topic_id INTEGER, number INTEGER, next_offset INTEGER,
                            start_offset INTEGER);
    CREATE TABLE record (id INTEGER PRIMARY KEY, timestamp INTEGER, key BLOB, headers BLOB, value BLOB,
                         crc INTEGER);
"""
CREATE_SERVICE = """
    CREATE TABLE aqueduct_stream_event (id INTEGER PRIMARY KEY, stream TEXT, version INTEGER, event_type TEXT,
                                        payload BLOB);
    CREATE TABLE shelf (store INTEGER, sku INTEGER, stock INTEGER, sold INTEGER, refused INTEGER,
                        replenished INTEGER);
    CREATE TABLE basket (id INTEGER, units INTEGER, units_sold INTEGER);
"""
TOPICS = {"till.baskets": 1, "inventory.stock": 2, "recommendation.advice": 3, "inventory.till.baskets.dead": 4,
          "inventory.till.baskets.parked": 5}


def header_block(fields):
    block = b""
    for name, value in fields.items():
        block += struct.pack("<H", len(name)) + name.encode()
        block += struct.pack("<i", -1) if value is None else struct.pack("<i", len(value)) + value.encode()
    return block


class World:
    """A sound run of a very small shop, in a folder."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.data, self.report_file = self.folder / "data.csv.gz", self.folder / "report.json"
        self.ids = Counter()
        self.connections = {}
        for name in ("log", "inventory", "recommendation"):
            connection = sqlite3.connect(str(self.folder / (name + ".db")))
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.executescript(CREATE_LOG if name == "log" else CREATE_SERVICE)
            self.connections[name] = connection
        for name, number in TOPICS.items():
            self.run("log", "INSERT INTO topic VALUES (?, ?, x'00', 1, NULL, NULL, ?)", number, name,
                     name.endswith(".parked"))
            self.run("log", "INSERT INTO partition VALUES (?, ?, 0, 0, 0)", number, number)
        self.write_data()
        self.sell()

    def run(self, database, sql, *values):
        return self.connections[database].execute(sql, values).fetchall()

    def write_data(self, sales=SALES):
        with gzip.open(self.data, "wt", newline="") as file:
            out = csv.writer(file)
            out.writerow(COLUMNS)
            for basket, store, lines in sales:
                for product, quantity in lines:
                    out.writerow([basket, store, 9, "2017-01-01T11:53:26Z", product, quantity, 100])

    def publish(self, topic, event_type, payload, fields=None):
        partition = TOPICS[topic]
        [(offset,)] = self.run("log", "SELECT next_offset FROM partition WHERE id = ?", partition)
        self.ids[event_type] += 1
        if fields is None:
            fields = {"ce_id": str(uuid.uuid4()), "ce_type": event_type, "ce_source": "test", "note": None}
        self.run("log", "INSERT INTO record VALUES (?, 0, x'00', ?, ?, 0)", partition << 40 | offset,
                 header_block(fields), json.dumps(payload).encode())
        self.run("log", "UPDATE partition SET next_offset = next_offset + 1 WHERE id = ?", partition)

    def append(self, stream, event_type, payload):
        [(version,)] = self.run("inventory", "SELECT count(*) FROM aqueduct_stream_event WHERE stream = ?", stream)
        self.run("inventory", "INSERT INTO aqueduct_stream_event (stream, version, event_type, payload) "
                 "VALUES (?, ?, ?, ?)", stream, version + 1, event_type, json.dumps(payload).encode())
        self.publish("inventory.stock", event_type, payload)

    def sell(self):
        shelves = {}
        for basket, store, lines in SALES:
            kept = [line for line in lines if 0 < line[1] <= 1000]
            if not kept:
                continue
            lines = [{"sku": sku, "quantity": quantity} for sku, quantity in kept]
            version = ".v2" if basket % 2 else ""  # two versions are in use
            self.publish("till.baskets", "till.BasketCheckedOut" + version, {"basket": basket, "lines": lines})
            units = sum(quantity for _, quantity in kept)
            for service in ("inventory", "recommendation"):
                self.run(service, "INSERT INTO basket VALUES (?, ?, 0)", basket, units)
            for sku, wanted in kept:
                shelf = shelves.setdefault((store, sku), [verify.opening(sku), 0, 0, 0])
                stream, sold = "shelf/%d/%d" % (store, sku), min(shelf[0], wanted)
                event = {"store": store, "sku": sku, "basket": basket, "quantity": sold}
                if sold:
                    self.append(stream, "inventory.StockReserved.v2", event)
                shelf[0], shelf[1], shelf[2] = shelf[0] - sold, shelf[1] + sold, shelf[2] + wanted - sold
                self.run("inventory", "UPDATE basket SET units_sold = units_sold + ? WHERE id = ?", sold, basket)
                if sold and shelf[0] == 0:
                    shelf_of = {"store": store, "sku": sku}
                    self.append(stream, "inventory.StockDepleted", shelf_of)
                    self.publish("recommendation.advice", "recommendation.RestockAdvised", shelf_of)
            if basket == 104:  # after the refusal on this shelf
                self.append("shelf/2/5", "inventory.StockReplenished", {"store": 2, "sku": 5, "quantity": 12})
                shelves[2, 5][0] += 12
                shelves[2, 5][3] += 12
        for (store, sku), shelf in shelves.items():
            self.run("inventory", "INSERT INTO shelf VALUES (?, ?, ?, ?, ?, ?)", store, sku, *shelf)
        # A dead letter and a parked copy keep the id of the original; the parked topic was compacted.
        for topic in ("inventory.till.baskets.dead", "inventory.till.baskets.parked"):
            copy = {"ce_id": "11111111-1111-7111-8111-111111111111", "ce_type": "till.BasketCheckedOut"}
            self.publish(topic, "copy", {"basket": 999}, copy)
        self.run("log", "UPDATE partition SET next_offset = 9 WHERE id = 5")
        reserved = self.ids["inventory.StockReserved.v2"]
        self.report = {
            "baskets_published": 5,
            "services": {
                "inventory": {
                    "baskets_handled": 5,
                    "units_sold": sum(shelf[1] for shelf in shelves.values()),
                    "units_refused": sum(shelf[2] for shelf in shelves.values()),
                    "events_published": {"inventory.StockReserved": reserved, "inventory.StockDepleted": 2,
                                         "inventory.StockReplenished": 1},
                    "dead_letters": 1,
                },
                "recommendation": {"baskets_handled": 5, "events_published": {"recommendation.RestockAdvised": 2},
                                   "dead_letters": 0},
            },
            "lines_set_aside": {"zero_quantity": 1, "fuel": 2},
        }

    def check(self):
        """Runs the checks and returns the exit code, the names of the red ones, and what was printed."""
        self.report_file.write_text(json.dumps(self.report), encoding="utf-8")
        for connection in self.connections.values():
            connection.commit()
        out = io.StringIO()
        code = verify.main(["check", str(self.data), str(self.report_file), str(self.folder)], out)
        text = out.getvalue()
        red = {line.split()[1].rstrip(":") for line in text.splitlines() if line.startswith("FAILED ")}
        return code, red, text

    def close(self):
        for connection in self.connections.values():
            connection.close()


def report(path, value):
    def plant(world):
        at = world.report
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value

    return plant


def sql(database, *statements):
    def plant(world):
        for statement in statements:
            world.run(database, statement)

    return plant


def publish(topic, event_type, payload, fields=None):
    return lambda world: world.publish(topic, event_type, payload, fields)


def publish_id_again(world):
    [(blob,)] = world.run("log", "SELECT headers FROM record WHERE id = ?", 1 << 40)
    again = verify.headers(blob)[b"ce_id"].decode()
    world.publish("till.baskets", None, {}, {"ce_id": again, "ce_type": "till.Opened"})


def change_first(field, value):
    """Changes a field in the payload of the first event of a shelf: 2 of 6 units to basket 101."""
    change = "UPDATE %s SET payload = json_set(payload, '$.%s', %d) WHERE %s"
    return sql("inventory", change % (EVENT, field, value, FIRST))


EVENT = "aqueduct_stream_event"
FIRST = "stream = 'shelf/1/4' AND version = 1"
INVENTORY, RECOMMENDATION = ("services", "inventory"), ("services", "recommendation")

# check -> (what goes wrong, how). The check must be red; others may be too.
PLANTED = {
    "report-baskets-published": [("wrong count", report(["baskets_published"], 6))],
    "report-lines-set-aside": [("fuel not named", report(["lines_set_aside", "fuel"], 0))],
    "report-baskets-handled": [
        ("one missed", report([*INVENTORY, "baskets_handled"], 4)),
        ("one missed", report([*RECOMMENDATION, "baskets_handled"], 4)),
    ],
    "report-units": [
        ("a unit lost", report([*INVENTORY, "units_sold"], 20)),
        ("nothing sold", lambda world: world.report["services"]["inventory"].update(
            units_sold=0, units_refused=24)),
    ],
    "log-baskets": [
        ("published twice", publish("till.baskets", "till.BasketCheckedOut", {"basket": 101, "lines": [{"quantity": 5}]})),
        ("missing", sql("log", "DELETE FROM record WHERE id = %d" % (1 << 40))),
        ("two under one id", sql("log", "UPDATE record SET headers = (SELECT headers FROM record WHERE id = %d) "
                                 "WHERE id >> 40 = 1" % (1 << 40))),
        ("unknown", publish("till.baskets", "till.BasketCheckedOut", {"basket": 999, "lines": []})),
        ("other units", sql("log", "UPDATE record SET value = json_set(value, '$.lines[0].quantity', 3) "
                            "WHERE id = %d" % (1 << 40))),
        ("empty", sql("log", "DELETE FROM record WHERE id >> 40 = 1")),
    ],
    "log-event-ids": [
        ("an id again", publish_id_again),
        ("an event without id", publish("till.baskets", None, {}, {"ce_type": "till.Opened"})),
        ("empty", sql("log", "DELETE FROM record")),
    ],
    "log-offsets": [
        ("a hole", sql("log", "DELETE FROM record WHERE id = %d" % (2 << 40 | 1))),
        ("the end missing", sql("log", "UPDATE partition SET next_offset = next_offset + 1 WHERE id = 1")),
        ("the start missing", sql("log", "UPDATE partition SET start_offset = 1 WHERE id = 1")),
        ("beyond the end", sql("log", "UPDATE partition SET next_offset = 0 WHERE id = 5")),
        ("a partition of no topic", sql("log", "DELETE FROM topic WHERE id = 3")),
        ("a record of no partition", sql("log", "DELETE FROM partition WHERE id = 3")),
        ("empty", sql("log", "DELETE FROM record")),
    ],
    "dead-letters": [
        ("one not reported", report([*INVENTORY, "dead_letters"], 0)),
        ("one not there", report([*RECOMMENDATION, "dead_letters"], 1)),
        ("of no service", lambda world: (
            world.run("log", "UPDATE topic SET name = 'x.till.dead' WHERE id = 4"),
            world.report["services"]["inventory"].update(dead_letters=0))),
        ("empty", sql("log", "DELETE FROM record")),
    ],
    "published-inventory": [
        ("one too many in the log", publish("inventory.stock", "inventory.StockDepleted", {})),
        ("wrong count", report([*INVENTORY, "events_published", "inventory.StockDepleted"], 3)),
        ("a type not reported", publish("inventory.stock", "inventory.Other", {})),
        ("a foreign type reported", report([*INVENTORY, "events_published", "till.Other"], 1)),
        ("empty", sql("log", "DELETE FROM record WHERE id >> 40 = 2")),
    ],
    "published-recommendation": [
        ("one too many in the log", publish("recommendation.advice", "recommendation.RestockAdvised", {})),
        ("empty", sql("log", "DELETE FROM record WHERE id >> 40 = 3")),
    ],
    "handled-inventory": [
        ("twice", sql("inventory", "INSERT INTO basket VALUES (101, 5, 5)")),
        ("missing", sql("inventory", "DELETE FROM basket WHERE id = 101")),
        ("unknown", sql("inventory", "INSERT INTO basket VALUES (106, 5000, 0)")),
        ("other units", sql("inventory", "UPDATE basket SET units = 4 WHERE id = 101")),
        ("empty", sql("inventory", "DELETE FROM basket")),
    ],
    "handled-recommendation": [
        ("twice", sql("recommendation", "INSERT INTO basket VALUES (101, 5, 5)")),
        ("missing", sql("recommendation", "DELETE FROM basket WHERE id = 101")),
        ("unknown", sql("recommendation", "INSERT INTO basket VALUES (106, 5000, 0)")),
        ("other units", sql("recommendation", "UPDATE basket SET units = 4 WHERE id = 101")),
        ("empty", sql("recommendation", "DELETE FROM basket")),
    ],
    "stream-versions": [
        ("a gap", sql("inventory", "DELETE FROM %s WHERE stream = 'shelf/1/4' AND version = 2" % EVENT)),
        ("from zero", sql("inventory", "UPDATE %s SET version = version - 1 WHERE stream = 'shelf/1/4'" % EVENT)),
        ("twice", sql("inventory", "UPDATE %s SET version = 2 WHERE %s" % (EVENT, FIRST))),
        ("empty", sql("inventory", "DELETE FROM %s" % EVENT)),
    ],
    "stream-events": [
        ("reported otherwise", report([*INVENTORY, "events_published", "inventory.StockDepleted"], 3)),
        ("not in the log", sql("log", "DELETE FROM record WHERE id = %d" % (2 << 40))),
        ("stored, not published", lambda world: (
            world.append("shelf/1/4", "inventory.StockDepleted", {"store": 1, "sku": 4}),
            world.run("log", "DELETE FROM record WHERE id = (SELECT max(id) FROM record WHERE id >> 40 = 2)"))),
        ("another shelf", change_first("sku", 5)),
        ("unknown basket", change_first("basket", 9)),
        ("a reservation of nothing", change_first("quantity", 0)),
        ("empty", sql("inventory", "DELETE FROM %s" % EVENT)),
    ],
    "reserved-once": [
        ("handled again", lambda world: world.append(
            "shelf/1/5", "inventory.StockReserved", {"store": 1, "sku": 5, "basket": 101, "quantity": 3})),
        ("empty", sql("inventory", "DELETE FROM %s WHERE event_type LIKE 'inventory.StockReserved%%'" % EVENT)),
    ],
    "basket-units-sold": [
        ("another sum", sql("inventory", "UPDATE basket SET units_sold = units_sold - 1 WHERE id = 101")),
        ("two that cancel out", sql(
            "inventory", "UPDATE basket SET units_sold = units_sold - 1 WHERE id = 101",
            "UPDATE basket SET units_sold = units_sold + 1 WHERE id = 102")),
        ("a basket missing", sql("inventory", "DELETE FROM basket WHERE id = 101")),
        ("empty", sql("inventory", "DELETE FROM basket")),
    ],
    "depletions": [
        ("not said", sql("inventory", "DELETE FROM %s WHERE stream = 'shelf/1/4' AND version = 3" % EVENT)),
        ("not said, then filled", sql("inventory", "DELETE FROM %s WHERE stream = 'shelf/2/5' "
                                      "AND version = 2" % EVENT)),
        ("said too early", lambda world: world.append(
            "shelf/1/5", "inventory.StockDepleted", {"store": 1, "sku": 5, "basket": 101, "refused": 0})),
        ("filled though not empty", lambda world: world.append(
            "shelf/1/5", "inventory.StockReplenished", {"store": 1, "sku": 5, "quantity": 12})),
        ("empty", sql("inventory", "DELETE FROM %s" % EVENT)),
    ],
    "stock-never-negative": [
        ("for a moment", sql("inventory", "UPDATE %s SET payload = json_set(payload, '$.quantity', 24) "
                             "WHERE stream = 'shelf/2/5' AND version = 1" % EVENT)),
        ("empty", sql("inventory", "DELETE FROM %s" % EVENT)),
    ],
    "stock-adds-up": [
        ("stock", sql("inventory", "UPDATE shelf SET stock = stock + 1 WHERE store = 1 AND sku = 5")),
        ("sold", sql("inventory", "UPDATE shelf SET sold = sold + 1 WHERE store = 1 AND sku = 5")),
        ("replenished", sql("inventory", "UPDATE shelf SET replenished = 0")),
        ("shelf missing", sql("inventory", "DELETE FROM shelf WHERE store = 1 AND sku = 5")),
        ("stream missing", sql("inventory", "DELETE FROM %s WHERE stream = 'shelf/1/5'" % EVENT)),
        ("shelf twice", sql("inventory", "INSERT INTO shelf SELECT * FROM shelf LIMIT 1")),
        ("empty", sql("inventory", "DELETE FROM shelf")),
    ],
    "sold-within-wanted": [
        ("too many", sql("inventory", "UPDATE %s SET payload = json_set(payload, '$.quantity', 4) "
                         "WHERE stream = 'shelf/1/5'" % EVENT)),
        ("empty", sql("inventory", "DELETE FROM %s" % EVENT)),
    ],
    "wanted-accounted-for": [
        ("a refusal lost", sql("inventory", "UPDATE shelf SET refused = 0 WHERE store = 2 AND sku = 5")),
        ("two that cancel out", sql(
            "inventory", "UPDATE shelf SET refused = refused - 1 WHERE store = 2 AND sku = 5",
            "UPDATE shelf SET refused = refused + 1 WHERE store = 1 AND sku = 4")),
        ("a shelf that nobody asked for", sql("inventory", "INSERT INTO shelf VALUES (9, 4, 5, 1, 0, 0)")),
        ("reported otherwise", lambda world: world.report["services"]["inventory"].update(
            units_sold=22, units_refused=2)),
        ("empty", sql("inventory", "DELETE FROM shelf")),
    ],
}


class Checks(unittest.TestCase):
    def world(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return closing(World(folder.name))

    def test_a_sound_run_is_green(self):
        with self.world() as world:
            code, red, text = world.check()
            self.assertEqual((code, red), (0, set()), text)
            self.assertEqual(text.splitlines()[-1], "%d passed, 0 failed" % len(verify.CHECKS))

    def test_every_check_has_a_planted_fault(self):
        names = {check.__name__.replace("_", "-") for check in verify.CHECKS}
        self.assertEqual(names, set(PLANTED))

    def test_every_planted_fault_turns_its_check_red(self):
        for name, faults in PLANTED.items():
            for what, plant in faults:
                with self.subTest(check=name, fault=what), self.world() as world:
                    plant(world)
                    code, red, text = world.check()
                    self.assertEqual(code, 1, text)
                    self.assertIn(name, red, text)
                    self.assertEqual(text.splitlines()[-1],
                                     "%d passed, %d failed" % (len(verify.CHECKS) - len(red), len(red)))

    def test_an_empty_run_is_red_everywhere(self):
        # Nothing sold, nothing reported, nothing stored: every comparison holds, and none may pass.
        with self.world() as world:
            world.write_data(sales=())
            for database, connection in world.connections.items():
                for table in ("record",) if database == "log" else (EVENT, "shelf", "basket"):
                    connection.execute("DELETE FROM %s" % table)
            sql("log", "UPDATE partition SET next_offset = 0")(world)
            inventory, recommendation = world.report["services"].values()
            world.report.update(baskets_published=0, lines_set_aside={"zero_quantity": 0, "fuel": 0})
            inventory.update(baskets_handled=0, units_sold=0, units_refused=0, events_published={}, dead_letters=0)
            recommendation.update(baskets_handled=0, events_published={})
            _, red, text = world.check()
            self.assertEqual(red, set(PLANTED), text)

    def test_a_single_fault_leaves_unrelated_checks_green(self):
        with self.world() as world:
            sql("recommendation", "DELETE FROM basket WHERE id = 101")(world)
            self.assertEqual(world.check()[1], {"handled-recommendation"})

    def test_missing_and_unreadable_input_is_red_and_not_created(self):
        with self.world() as world:
            world.connections.pop("log").close()
            for file in world.folder.glob("log.db*"):
                file.unlink()
            code, red, text = world.check()
            self.assertEqual(code, 1)
            self.assertIn("FAILED log-baskets: log.db is not there", text)
            self.assertNotIn("handled-inventory", red)
            self.assertFalse((world.folder / "log.db").exists())
            (world.folder / "log.db").write_bytes(b"no database at all" * 100)
            self.assertIn("log-baskets", world.check()[1])

    def test_a_broken_header_block_is_red(self):
        with self.world() as world:
            sql("log", "UPDATE record SET headers = substr(headers, 1, length(headers) - 1)")(world)
            self.assertIn("log-baskets", world.check()[1])

    def test_totals_count_what_the_data_alone_fixes(self):
        with self.world() as world:
            out = io.StringIO()
            self.assertEqual(verify.main(["totals", str(world.data)], out), 0)
            self.assertEqual(json.loads(out.getvalue()), {
                "baskets": 5, "lines_kept": 6, "lines_set_aside": {"zero_quantity": 1, "fuel": 2},
                "shelves": 3, "stores": 2, "units_wanted": 24,
            })


if __name__ == "__main__":
    unittest.main()
