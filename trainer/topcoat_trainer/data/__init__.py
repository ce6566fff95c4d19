"""From a file to checked rows: read, recognise, normalise, judge. Never imports torch; never shows a row's text."""
