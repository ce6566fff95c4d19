"""The boundary cache: what the frozen layers give for each row, computed once, used in every epoch."""
