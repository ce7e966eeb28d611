"""millstream in the words of other frameworks. A folder imports its framework; nothing imports the folder."""
