"""The tables of telemetry, and the way from older ones to these."""

from __future__ import annotations

import sqlite3

SCHEMA_VERSION = 4

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
  id INTEGER PRIMARY KEY, t_run REAL NOT NULL, t_wall REAL NOT NULL, kind TEXT NOT NULL, site TEXT, version INTEGER,
  detail TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS decisions (
  t_run REAL NOT NULL, t_wall REAL NOT NULL, site TEXT NOT NULL, wanted INTEGER NOT NULL, reason TEXT NOT NULL,
  numbers TEXT NOT NULL, until REAL, input TEXT NOT NULL, memory TEXT NOT NULL, PRIMARY KEY (site, t_run));
CREATE TABLE IF NOT EXISTS readings (
  t_run REAL NOT NULL, t_wall REAL NOT NULL, site TEXT NOT NULL, value REAL NOT NULL, unit TEXT NOT NULL,
  valid_from REAL NOT NULL, known_at REAL NOT NULL, source TEXT NOT NULL, stale_at REAL, PRIMARY KEY (site, valid_from));
CREATE TABLE IF NOT EXISTS metrics (
  id INTEGER PRIMARY KEY, t_run REAL NOT NULL, t_wall REAL NOT NULL, site TEXT NOT NULL, name TEXT NOT NULL,
  value REAL NOT NULL, tokens INTEGER, version INTEGER, detail TEXT);
-- The account, append-only: a row is a booking, or with a cause a signed correction of one. Of a site's newest booking alone the
-- end moves on while nothing of it changes. inside: 1 inside a window, 0 outside, -1 where the site's first signal was unknown.
CREATE TABLE IF NOT EXISTS energy (
  number INTEGER PRIMARY KEY, site TEXT NOT NULL, phase TEXT NOT NULL, t0 REAL NOT NULL, t1 REAL NOT NULL, t_wall REAL NOT NULL,
  watts REAL NOT NULL, g_per_kwh REAL, joules REAL NOT NULL, grams REAL NOT NULL, inside INTEGER NOT NULL, average_grams REAL,
  money REAL, measured_joules REAL NOT NULL DEFAULT 0, cause TEXT NOT NULL DEFAULT '', booked_at REAL,
  own_joules REAL NOT NULL DEFAULT 0, stored_joules REAL NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS forecasts (
  site TEXT NOT NULL, made_at REAL NOT NULL, times TEXT NOT NULL, vals TEXT NOT NULL, ends_at REAL NOT NULL,
  PRIMARY KEY (site, made_at));
CREATE TABLE IF NOT EXISTS states (
  site TEXT NOT NULL, t_run REAL NOT NULL, t_wall REAL NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS modes (t_run REAL NOT NULL, t_wall REAL NOT NULL, mode TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_kind ON events (kind, id);
CREATE INDEX IF NOT EXISTS metrics_by_name ON metrics (name, id);
CREATE INDEX IF NOT EXISTS energy_by_site ON energy (site, t0);
"""

#: Columns that tables of older schemas lack.
_ADDED = (("energy", "average_grams"), ("energy", "money"), ("readings", "stale_at"))
#: Columns that its table of energy lacks before schema 4, with microgrids.
_OWN_POWER = ("own_joules", "stored_joules")
#: Until schema 3 a site had one entry at an instant, by which it was known.
_NUMBERED = """
ALTER TABLE energy RENAME TO energy_before;
CREATE TABLE energy (
  number INTEGER PRIMARY KEY, site TEXT NOT NULL, phase TEXT NOT NULL, t0 REAL NOT NULL, t1 REAL NOT NULL, t_wall REAL NOT NULL,
  watts REAL NOT NULL, g_per_kwh REAL, joules REAL NOT NULL, grams REAL NOT NULL, inside INTEGER NOT NULL, average_grams REAL,
  money REAL, measured_joules REAL NOT NULL DEFAULT 0, cause TEXT NOT NULL DEFAULT '', booked_at REAL);
INSERT INTO energy (site, phase, t0, t1, t_wall, watts, g_per_kwh, joules, grams, inside, average_grams, money)
  SELECT site, phase, t0, t1, t_wall, watts, g_per_kwh, joules, grams, inside, average_grams, money
  FROM energy_before ORDER BY t0, site;
DROP TABLE energy_before;
CREATE INDEX energy_by_site ON energy (site, t0);
"""


def upgrade(db: sqlite3.Connection) -> None:
    """Add to an older telemetry what its schema lacks, and note the schema. A newer schema is left as it is."""
    db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
    row = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if int(row[0]) >= SCHEMA_VERSION:
        return
    for table, column in _ADDED:
        if column not in _columns(db, table):
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} REAL")
    if "number" not in _columns(db, "energy"):
        db.executescript(f"BEGIN; {_NUMBERED} UPDATE meta SET value = '3' WHERE key = 'schema'; COMMIT;")
    for column in _OWN_POWER:
        if column not in _columns(db, "energy"):
            db.execute(f"ALTER TABLE energy ADD COLUMN {column} REAL NOT NULL DEFAULT 0")
    db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (str(SCHEMA_VERSION),))


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {str(c[1]) for c in db.execute(f"PRAGMA table_info({table})")}
