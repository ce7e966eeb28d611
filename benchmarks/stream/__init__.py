"""The benchmark of streams: windows by key and single events, beside four engines and a plain loop."""
