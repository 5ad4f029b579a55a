-- The points system's tables, created in the schema that is first on the search path.
-- No foreign keys: one transaction in five names a customer that has no row. dtTransaction is UTC.

CREATE TABLE IF NOT EXISTS "customers" (
    "idCustomer" text PRIMARY KEY,
    "PointsCustomer" bigint,
    "flEmail" bigint
);

CREATE TABLE IF NOT EXISTS "transactions" (
    "idTransaction" text PRIMARY KEY,
    "idCustomer" text,
    "dtTransaction" timestamp(3),
    "pointsTransaction" bigint
);

CREATE TABLE IF NOT EXISTS "transactions_product" (
    "idTransactionCart" text PRIMARY KEY,
    "idTransaction" text,
    "NameProduct" text,
    "QuantityProduct" bigint
);

-- The first and the last event, and the transactions around an instant.
CREATE INDEX IF NOT EXISTS "transactions_dtTransaction" ON "transactions" ("dtTransaction");

-- The lines of a cart.
CREATE INDEX IF NOT EXISTS "transactions_product_idTransaction" ON "transactions_product" ("idTransaction");

-- Change capture gets whole old rows: an update that leaves a long text as it was does not repeat it otherwise.
ALTER TABLE "customers" REPLICA IDENTITY FULL;
ALTER TABLE "transactions" REPLICA IDENTITY FULL;
ALTER TABLE "transactions_product" REPLICA IDENTITY FULL;
