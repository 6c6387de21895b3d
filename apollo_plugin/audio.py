class AudioError(ValueError): pass
