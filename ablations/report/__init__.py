"""The report of a study: what it says (`content`, sheets, figures) and the formats it is set in."""
