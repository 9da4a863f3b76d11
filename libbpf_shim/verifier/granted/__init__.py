"""What a class of extensions grants, held while a program is verified: nothing here runs, and no
verdict changes, where a program has no class (Program.policy is None)."""
