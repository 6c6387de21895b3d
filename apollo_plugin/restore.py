def restore_audio(): pass
