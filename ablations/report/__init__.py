"""The report of a study: `content` says what is in it, `sheets` and `figures` hold it, `formats` and `pages` set it."""
