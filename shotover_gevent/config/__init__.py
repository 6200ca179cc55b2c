"""The two files of the configuration, read strictly, each problem with its place.

``load.load_config`` and ``topology.load_topology`` read files; ``topology.parse_topology`` takes
data or a text from an embedding program; ``check.check_files`` collects what is wrong with both.
"""
