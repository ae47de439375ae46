"""The pure part: events, matching, the trigger language, evaluation, templates, outcomes."""
