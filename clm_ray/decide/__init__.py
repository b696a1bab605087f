"""One retention decision from profile to record: the policy's rules and the store together."""
