"""Looking at regions: snapshots, changes, holders, and the regions of this host."""
