import time
from sqlalchemy import text
from tests.support import TABLES, account
from horde.tables import Base
def test_x(platform):
    for i in range(4):
        for _ in range(3): account(platform, amount=5)
        t=time.time()
        with platform.engine.begin() as db:
            db.execute(text("TRUNCATE "+", ".join(TABLES)+" RESTART IDENTITY"))
            db.execute(text("INSERT INTO users (id, username, external_id, concurrency, public_workers) VALUES (0, 'Anonymous', 'anon', 500, true)"))
        print("truncate", time.time()-t)
    for i in range(4):
        for _ in range(3): account(platform, amount=0)
        t=time.time()
        with platform.engine.begin() as db:
            db.execute(text(";".join(f"DELETE FROM {t.name}" for t in reversed(Base.metadata.sorted_tables))))
        print("delete", time.time()-t)
