-- What inventory keeps beside the streams of its shelves. STRICT: a number that is none is an error here, not later.

-- One row for each basket that took effect; a second one of the same number is an error.
CREATE TABLE IF NOT EXISTS basket (
    id            INTEGER PRIMARY KEY,
    store         INTEGER NOT NULL,
    units_sold    INTEGER NOT NULL,
    units_refused INTEGER NOT NULL,
    units         INTEGER NOT NULL AS (units_sold + units_refused)
) STRICT;

-- The shelves as readers see them, from the first sale on. What was refused is in no event and stands here alone.
CREATE TABLE IF NOT EXISTS shelf (
    store       INTEGER NOT NULL,
    sku         INTEGER NOT NULL,
    stock       INTEGER NOT NULL CHECK (stock >= 0),
    sold        INTEGER NOT NULL,
    refused     INTEGER NOT NULL,
    replenished INTEGER NOT NULL,
    PRIMARY KEY (store, sku)
) STRICT, WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS shelf_depleted ON shelf (store, sku) WHERE stock = 0;
