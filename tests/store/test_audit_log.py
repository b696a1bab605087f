"""The audit log: whatever is changed behind its back is found, and erasing a user leaves the chain whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from clm_ray.errors import StoreError
from clm_ray.store import audit
from clm_ray.store.audit import AuditEntry, AuditHead
from clm_ray.store.records import Override, RetentionDecision
from clm_ray.store.store import Store
from clm_ray.store.tables import AUDIT_KEYS, AUDIT_LOG

Decide = Callable[..., RetentionDecision]


def entry(n: int, user: str | None = None) -> AuditEntry:
    return AuditEntry("approval", n, {"cap": n, "by": "someone"}, user_id=user)


@pytest.fixture
def filled(store: Store) -> Store:
    """Five entries; the second and the fourth are about ann."""
    store.append_audit([entry(1), entry(2, "ann"), entry(3, "bob")])
    store.append_audit([entry(4, "ann"), entry(5)])
    return store


def tamper(store: Store, change: str) -> None:
    """Change the log as somebody would who is master of the database."""
    with store.writing() as connection:
        if connection.dialect.name == "sqlite":
            for name in ("kept", "fixed", "not_rewritten"):
                connection.exec_driver_sql(f"DROP TRIGGER audit_log_is_{name}")
        else:
            connection.exec_driver_sql("ALTER TABLE audit_log DISABLE TRIGGER USER")
        connection.exec_driver_sql(change)


def test_the_chain_holds_over_calls(filled: Store) -> None:
    report = filled.verify_audit()
    assert (report.entries, report.erased, report.problems) == (5, 0, ())
    assert report.head.seq == 5
    assert filled.append_audit([]) == report.head
    assert filled.append_audit([entry(6)]).seq == 6
    assert filled.verify_audit(known=report.head).problems == ()


def test_an_empty_log_is_right(store: Store) -> None:
    assert store.verify_audit().head.seq == 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("UPDATE audit_log SET kind = 'other' WHERE seq = 3", "entry 3 does not follow"),
        ("UPDATE audit_log SET time = 0 WHERE seq = 1", "entry 1 does not follow"),
        ("UPDATE audit_log SET content = '{}' WHERE seq = 2", "entry 2: user or content"),
        ("UPDATE audit_log SET content = '{}' WHERE seq = 5", "entry 5: user or content"),
        ("UPDATE audit_log SET user_id = 'bob' WHERE seq = 4", "entry 4: user or content"),
        ("UPDATE audit_log SET content = NULL WHERE seq = 1", "1 entries have no content, but erasures blanked 0"),
        ("DELETE FROM audit_log WHERE seq = 3", "entries 3 to 3 are missing"),
        ("DELETE FROM audit_log WHERE seq = 1", "entries 1 to 1 are missing"),
        ("DELETE FROM audit_log WHERE seq = 5", "ends at entry 4, before the noted 5"),
        ("DELETE FROM audit_keys WHERE user_id = 'bob'", "entry 3: user or content"),
    ],
)
def test_a_change_is_found(filled: Store, change: str, problem: str) -> None:
    known = filled.verify_audit().head
    tamper(filled, change)
    assert any(problem in found for found in filled.verify_audit(known=known).problems)


def test_a_new_chain_is_not_the_one_that_was_noted(filled: Store, store: Store) -> None:
    head = filled.verify_audit().head
    report = store.verify_audit(known=AuditHead(head.seq, "0" * 64))
    assert report.problems == ("entry 5 is not the one that was noted",)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM audit_log WHERE seq = 3",
        "UPDATE audit_log SET hash = 'x' WHERE seq = 3",
        "UPDATE audit_log SET digest = 'x', time = 5 WHERE seq = 3",
        "UPDATE audit_log SET content = '{}' WHERE seq = 3",
    ],
)
def test_the_database_itself_refuses_changes(filled: Store, change: str) -> None:
    with pytest.raises((StoreError, DBAPIError), match="append-only"), filled.writing() as connection:
        connection.exec_driver_sql(change)
    assert filled.verify_audit().problems == ()


def test_an_erasure_destroys_the_key_and_not_the_chain(filled: Store) -> None:
    before = filled.verify_audit().head
    removed = filled.erase(["ann", "nobody"]).removed
    assert (removed["audit_log"], removed["audit_keys"]) == (2, 1)
    report = filled.verify_audit(known=before)
    assert (report.entries, report.erased, report.problems) == (6, 2, ())
    with filled.reading() as connection:
        rows = {row.seq: row for row in connection.execute(select(AUDIT_LOG))}
        assert connection.execute(select(AUDIT_KEYS.c.user_id)).scalars().all() == ["bob"]
    assert (rows[2].user_id, rows[2].content, rows[6].kind) == (None, None, audit.ERASURE)
    filled.append_audit([entry(7, "ann")])
    assert filled.erase(["ann"]).removed["audit_log"] == 1
    assert filled.verify_audit(known=before).problems == ()


def test_decisions_and_overrides_enter_themselves(store: Store, decision: Decide) -> None:
    made = decision()
    store.book([made, decision(user_id="v")])
    store.book([made])
    store.override([made.action_id], by=Override("none", "consent", 30))
    store.override([made.action_id], by=Override("none", "consent", 40))
    with store.reading() as connection:
        kinds = connection.execute(select(AUDIT_LOG.c.kind).order_by(AUDIT_LOG.c.seq)).scalars().all()
    assert kinds == [audit.DECISION, audit.DECISION, audit.OVERRIDE]
    assert store.verify_audit().problems == ()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("UPDATE retention_decisions SET record = replace(record, '0.75', '0.74')", "was changed"),
        ("DELETE FROM retention_decisions", "is gone"),
    ],
)
def test_a_decision_that_was_changed_is_found(store: Store, decision: Decide, change: str, problem: str) -> None:
    store.book([decision()])
    with store.writing() as connection:
        connection.exec_driver_sql(change)
    assert [p.rpartition(" action:u:1 ")[2] for p in store.verify_audit().problems] == [problem]


def test_an_erased_decision_is_no_problem(store: Store, decision: Decide) -> None:
    store.book([decision(), decision(user_id="v")])
    store.erase(["u"])
    assert store.verify_audit().problems == ()


def test_the_command_verifies(filled: Store, store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    head = filled.verify_audit().head
    audit.main([store_url, "--known", f"{head.seq}:{head.hash}"])
    assert f"5 entries, 0 of them erased; head 5:{head.hash}" in capsys.readouterr().out
    tamper(filled, "DELETE FROM audit_log WHERE seq = 2")
    with pytest.raises(StoreError, match="damaged: entries 2 to 2 are missing"):
        audit.main([store_url])
    with pytest.raises(StoreError, match="not a head"):
        audit.main([store_url, "--known", "yes"])
