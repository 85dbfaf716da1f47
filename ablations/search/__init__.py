"""A search: its space, and its report from the record it leaves."""
