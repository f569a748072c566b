-- Run once, when the database cluster is made. The service is an ordinary role that owns its own database and
-- nothing else; the superuser has another password and is only for the operator, over the socket in the container.
\set password `cat /credentials/database/password`
CREATE ROLE cxr LOGIN PASSWORD :'password';
CREATE DATABASE cxr OWNER cxr;
REVOKE ALL ON DATABASE cxr FROM PUBLIC;

-- `cxr audit verify` has the server check its own pages and indexes
\connect cxr
CREATE EXTENSION amcheck;
GRANT EXECUTE ON FUNCTION bt_index_check(regclass, boolean) TO cxr;
GRANT EXECUTE ON FUNCTION verify_heapam(regclass, boolean, boolean, text, bigint, bigint) TO cxr;
