"""The league: several settings measured on several datasets, each judged on a dataset that had no say in its choice."""
