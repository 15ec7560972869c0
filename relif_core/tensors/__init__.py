"""The tensor folders on disk: relif_data writes them, training reads them."""
