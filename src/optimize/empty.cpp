// placeholder unit
