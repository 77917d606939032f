"""The daemon: settings, stations, scheduling, reload, supervision."""
