"""Online state and durable logs: histories, events, decisions, slates and the budget ledger, in one database."""
