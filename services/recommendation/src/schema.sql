-- What recommendation has learnt. STRICT: a number that is none is an error here, not later.

-- One row for each basket that was learnt from; a second one of the same number is an error.
CREATE TABLE IF NOT EXISTS basket (
    id    INTEGER PRIMARY KEY,
    store INTEGER NOT NULL,
    units INTEGER NOT NULL
) STRICT;

-- How many baskets held both products; a < b.
CREATE TABLE IF NOT EXISTS pair (
    a     INTEGER NOT NULL,
    b     INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (a, b)
) STRICT, WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS pair_b ON pair (b);

-- What a household bought.
CREATE TABLE IF NOT EXISTS household_product (
    household INTEGER NOT NULL,
    sku       INTEGER NOT NULL,
    units     INTEGER NOT NULL,
    PRIMARY KEY (household, sku)
) STRICT, WITHOUT ROWID;

-- What a store's customers wanted of a product, whether it was there or not; days since 1 January 1970.
CREATE TABLE IF NOT EXISTS demand (
    store     INTEGER NOT NULL,
    sku       INTEGER NOT NULL,
    units     INTEGER NOT NULL,
    first_day INTEGER NOT NULL,
    last_day  INTEGER NOT NULL,
    PRIMARY KEY (store, sku)
) STRICT, WITHOUT ROWID;

-- What inventory says is not there now.
CREATE TABLE IF NOT EXISTS depleted (
    store INTEGER NOT NULL,
    sku   INTEGER NOT NULL,
    PRIMARY KEY (store, sku)
) STRICT, WITHOUT ROWID;
