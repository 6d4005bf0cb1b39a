"""The whole migration on two embedded servers under live writes; its servers are the tests' servers too."""
