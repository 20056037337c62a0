// The contract of the yard, which workflows call through a Nexus endpoint.
'use strict';
const nexus = require('nexus-rpc');

exports.yard = nexus.service('yard', { echo: nexus.operation(), shunt: nexus.operation() });
