-- How the run of a flow is doing, as its last commit left it: MessagePack of flow_figures.py, null before the first.
ALTER TABLE flow ADD COLUMN figures BLOB;
