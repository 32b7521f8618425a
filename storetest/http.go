package storetest

var httpPromises = &suite{}
