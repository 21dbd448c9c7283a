-- The read lease: at most one row. While it exists, processes may hold leases, and each change waits max_lease_ms.
--
-- A holder writes the row before it loads. A row that is changed or removed makes each holder load and check it again.
CREATE TABLE trust_auth_lease (
    id             INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    -- The longest lease that a process may hold.
    max_lease_ms   INTEGER NOT NULL CHECK (max_lease_ms BETWEEN 300 AND 300000),
    -- RFC 3339, in UTC. For operators.
    in_use_since   TEXT NOT NULL,
    -- While max_lease_ms is being lowered: to what (0: the row is to be removed), and by which attempt. A holder of a
    -- longer lease sets both to null.
    lowering_to_ms INTEGER CHECK (lowering_to_ms BETWEEN 0 AND 300000),
    lowering_id    TEXT,
    CHECK ((lowering_to_ms IS NULL) = (lowering_id IS NULL))
) STRICT;
